"""BentoML with adaptive batching: JSON with numbers or with base64 pictures. Arguments: see _net."""

import json
import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from _net import BATCH, Arguments, arguments, from_base64, session

ASKED = Arguments(*json.loads(os.environ["BENCH_ARGUMENTS"])) if "BENCH_ARGUMENTS" in os.environ else arguments(sys.argv[1:])
latency = {} if ASKED.seconds is None else {"max_latency_ms": round(1000 * ASKED.seconds)}
traffic = {} if ASKED.places is None else {"max_concurrency": 2 * ASKED.places}  # of those that wait and those that are computed
batchable = bentoml.api(batchable=True, batch_dim=0, max_batch_size=BATCH, **latency)


@bentoml.service(workers=1, threads=1, traffic=traffic)
class Net:
    def __init__(self) -> None:
        self.session = session(ASKED.model)

    @batchable
    def predict(self, data: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"pixels": data.astype(np.float32, copy=False)})[0]

    @batchable
    def classify(self, image: list[str]) -> np.ndarray:
        return self.session.run(None, {"pixels": np.stack([from_base64(text) for text in image])})[0]


if __name__ == "__main__":
    here = Path(__file__).resolve()
    os.environ["BENCH_ARGUMENTS"] = json.dumps([ASKED.model, ASKED.port, ASKED.seconds, ASKED.places])
    os.environ["BENTOML_CONFIG_OPTIONS"] = "api_server.logging.access.enabled=false"
    service = [f"{here.stem}:Net", "--working-dir", str(here.parent), "--host", "127.0.0.1", "--port", str(ASKED.port)]
    os.execv(str(Path(sys.executable).with_name("bentoml")), ["bentoml", "serve", *service, "--quiet", "--do-not-track"])
