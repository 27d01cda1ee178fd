"""What every peer does with a request, the fastest that is known for it: the same runtime with one thread, the same pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

SIDE = 64
BATCH = 16


@dataclass(frozen=True)
class Arguments:
    """What every server is called with: MODEL PORT [SECONDS [PLACES]]. seconds: the objective, where it is told; places: how many
    requests may wait, where that is limited too."""

    model: str
    port: int
    seconds: float | None = None
    places: int | None = None


def arguments(values: list[str]) -> Arguments:
    model, port, *limits = values
    return Arguments(model, int(port), *(kind(value) for kind, value in zip((float, int), limits, strict=False)))


def session(path: str) -> Any:
    """The net on one thread, as the bundle's program runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def from_base64(text: str) -> np.ndarray:
    """A picture as the tensor of one sample, [3, 64, 64]."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True))).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(picture, np.float32).transpose(2, 0, 1) / 255)


def from_json(values: list[float]) -> np.ndarray:
    """Flat numbers as the tensor of one sample."""
    return np.array(values, np.float32).reshape(3, SIDE, SIDE)
