"""The net as Triton's Python backend runs it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

sys.path[:0] = os.environ["BENCH_PATHS"].split(":")  # the backend's interpreter reads no PYTHONPATH

import numpy as np  # noqa: E402
import triton_python_backend_utils as backend  # noqa: E402
from _net import session  # noqa: E402


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self.session = session(parameters["path"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        arrays = [backend.get_input_tensor_by_name(request, "pixels").as_numpy() for request in requests]
        scores = self.session.run(None, {"pixels": np.concatenate(arrays) if len(arrays) > 1 else arrays[0]})[0]
        ends = np.cumsum([len(array) for array in arrays])
        parts = np.split(scores, ends[:-1])
        return [backend.InferenceResponse(output_tensors=[backend.Tensor("scores", part)]) for part in parts]
