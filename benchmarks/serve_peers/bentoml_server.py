"""BentoML with adaptive batching: JSON with numbers or with base64 pictures. Arguments: model, port, the objective in seconds."""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from _net import from_base64, session

LIMITS = {"max_latency_ms": int(1000 * float(os.environ["BENCH_OBJECTIVE"]))} if os.environ.get("BENCH_OBJECTIVE") else {}
batchable = bentoml.api(batchable=True, batch_dim=0, max_batch_size=16, **LIMITS)


@bentoml.service(workers=1, threads=1)
class Net:
    def __init__(self) -> None:
        self.session = session(os.environ["BENCH_MODEL"])

    @batchable
    def predict(self, data: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"pixels": data.astype(np.float32, copy=False)})[0]

    @batchable
    def classify(self, image: list[str]) -> np.ndarray:
        return self.session.run(None, {"pixels": np.stack([from_base64(text) for text in image])})[0]


if __name__ == "__main__":
    here = Path(__file__).resolve()
    os.environ["BENCH_MODEL"], port, *objective = sys.argv[1:]
    os.environ["BENCH_OBJECTIVE"] = objective[0] if objective else ""
    os.environ["BENTOML_CONFIG_OPTIONS"] = "api_server.logging.access.enabled=false"
    service = [f"{here.stem}:Net", "--working-dir", str(here.parent), "--host", "127.0.0.1", "--port", port]
    os.execv(str(Path(sys.executable).with_name("bentoml")), ["bentoml", "serve", *service, "--quiet", "--do-not-track"])
