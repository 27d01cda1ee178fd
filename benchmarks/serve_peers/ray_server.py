"""Ray Serve with dynamic batching: raw bytes, JSON with numbers, or a base64 picture. Arguments: model, port, the objective in seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # of its worker processes

import numpy as np
import ray
from _net import SIDE, from_base64, from_json, session
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=32, logging_config={"log_level": "WARNING", "enable_access_log": False})
class Net:
    def __init__(self, path: str) -> None:
        self.session = session(path)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
    async def scores(self, tensors: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.session.run(None, {"pixels": np.stack(tensors)})[0])

    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.headers["content-type"] == "application/json":
            document = await request.json()
            tensor = from_base64(document["image"]) if "image" in document else from_json(document["data"])
        else:
            tensor = np.frombuffer(await request.body(), np.float32).reshape(3, SIDE, SIDE)
        return {"scores": (await self.scores(tensor)).tolist()}


if __name__ == "__main__":
    model, port, *objective = sys.argv[1:]
    limits = {"request_timeout_s": float(objective[0])} if objective else {}
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(http_options={"host": "127.0.0.1", "port": int(port), **limits}, logging_config=quiet)
    serve.run(Net.bind(model), route_prefix="/predict", blocking=True)
