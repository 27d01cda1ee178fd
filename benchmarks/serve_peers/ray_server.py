"""Ray Serve with dynamic batching: raw bytes, JSON with numbers, or a base64 picture. Arguments: see _net."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # of its worker processes

import numpy as np
import ray
from _net import BATCH, SIDE, arguments, from_base64, from_json, session
from ray import serve
from starlette.requests import Request

QUIET = {"log_level": "WARNING", "enable_access_log": False}


@serve.deployment(num_replicas=1, max_ongoing_requests=2 * BATCH, logging_config=QUIET)
class Net:
    def __init__(self, path: str) -> None:
        self.session = session(path)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.0)
    async def scores(self, tensors: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.session.run(None, {"pixels": np.stack(tensors)})[0])

    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.method == "GET":
            return {}  # it is ready
        if request.headers["content-type"] == "application/json":
            document = await request.json()
            tensor = from_base64(document["image"]) if "image" in document else from_json(document["data"])
        else:
            tensor = np.frombuffer(await request.body(), np.float32).reshape(3, SIDE, SIDE)
        return {"scores": (await self.scores(tensor)).tolist()}


if __name__ == "__main__":
    asked = arguments(sys.argv[1:])
    limits = {} if asked.seconds is None else {"request_timeout_s": asked.seconds}
    net = Net if asked.places is None else Net.options(max_ongoing_requests=asked.places, max_queued_requests=asked.places)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": asked.port, **limits}, logging_config=QUIET)
    serve.run(net.bind(asked.model), route_prefix="/predict", blocking=True)
