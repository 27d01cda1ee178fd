"""LitServe with dynamic batching: JSON with numbers or with a base64 picture. Arguments: see _net."""

import sys
from typing import Any

import litserve
import numpy as np
from _net import BATCH, arguments, from_base64, from_json, session

ASKED = arguments(sys.argv[1:])


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.session = session(ASKED.model)

    def decode_request(self, request) -> np.ndarray:  # type: ignore[no-untyped-def]  # of a type, LitServe would make a schema
        return from_base64(request["image"]) if "image" in request else from_json(request["data"])

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"pixels": x})[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"scores": output.tolist()}


if __name__ == "__main__":
    # The limit is one of the time in line. That of the line's length has no setting; half of the objective leaves the call its time.
    limits = {} if ASKED.seconds is None else {"timeout": ASKED.seconds if ASKED.places is None else ASKED.seconds / 2}
    server = litserve.LitServer(Api(max_batch_size=BATCH, batch_timeout=0.001), accelerator="cpu", workers_per_device=1, **limits)
    server.run(host="127.0.0.1", port=ASKED.port, num_api_servers=1, log_level="warning", generate_client_file=False)
