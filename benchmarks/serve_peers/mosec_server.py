"""mosec with dynamic batching: raw bytes, JSON with numbers, or a base64 picture. Arguments: see _net."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
from _net import BATCH, SIDE, arguments, from_base64, from_json, session

if not sys.argv[1].startswith("-"):  # in its worker processes they are mosec's already
    asked = arguments(sys.argv[1:])
    os.environ["BENCH_MODEL"] = asked.model
    flags = {"address": "127.0.0.1", "port": asked.port, "log-level": "error"}
    flags |= {} if asked.seconds is None else {"timeout": round(1000 * asked.seconds)}
    flags |= {} if asked.places is None else {"capacity": asked.places}
    sys.argv = [sys.argv[0], *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]

from mosec import Server, Worker  # it reads the arguments when it is imported


class Net(Worker):
    def __init__(self) -> None:
        self.session = session(os.environ["BENCH_MODEL"])

    def deserialize(self, data: bytes) -> np.ndarray:
        if data[:1] != b"{":
            return np.frombuffer(data, np.float32).reshape(3, SIDE, SIDE)
        request = json.loads(data)
        return from_base64(request["image"]) if "image" in request else from_json(request["data"])

    def forward(self, data: list[np.ndarray]) -> list[Any]:
        return list(self.session.run(None, {"pixels": np.stack(data)})[0])

    def serialize(self, data: np.ndarray) -> bytes:
        return json.dumps({"scores": data.tolist()}).encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Net, num=1, max_batch_size=BATCH, max_wait_time=1)
    server.run()
