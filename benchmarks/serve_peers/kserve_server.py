"""KServe's Python server, without Kubernetes: Open Inference Protocol as bytes or JSON, pictures as base64 by its first protocol.

Arguments: see _net. It makes no batches (KServe has a container of its own for them, in Kubernetes) and has no time limit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from _net import arguments, from_base64, session
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class Net(Model):
    def __init__(self, path: str) -> None:
        super().__init__(Path(path).stem)
        self.session = session(path)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        if not isinstance(payload, InferRequest):
            pictures = [from_base64(instance["image"]["b64"]) for instance in payload["instances"]]
            return {"predictions": self.session.run(None, {"pixels": np.stack(pictures)})[0].tolist()}
        scores = self.session.run(None, {"pixels": payload.inputs[0].as_numpy()})[0]
        output = InferOutput("scores", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=payload.inputs[0].parameters is not None)  # as he asks, so he is answered
        return InferResponse(generate_uuid(), self.name, [output], requested_outputs=payload.request_outputs)


if __name__ == "__main__":
    asked = arguments(sys.argv[1:])
    ModelServer(http_port=asked.port, enable_grpc=False, workers=1, enable_latency_logging=False).start([Net(asked.model)])
