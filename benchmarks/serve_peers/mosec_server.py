"""mosec with dynamic batching: raw bytes, JSON with numbers, or a base64 picture. Arguments: model, port."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
from _net import SIDE, from_base64, from_json, session

if not sys.argv[1].startswith("-"):  # in its worker processes they are mosec's already
    os.environ["BENCH_MODEL"] = sys.argv[1]
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", sys.argv[2], "--log-level", "error"]

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
    server.append_worker(Net, num=1, max_batch_size=16, max_wait_time=1)
    server.run()
