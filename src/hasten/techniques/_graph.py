"""What the techniques on ONNX graphs share: reading, writing, calibration samples, silence, and one place for foreign errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.candidate import Candidate
from ..core.errors import HastenError, NotPossibleHere
from ..core.need import need
from ..core.seams import Context
from ..measure.silence import silence

_FILE = "model.onnx"
INT8_OPERATORS = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool"}
)
"""What static quantisation computes in 8 bits, where it takes every operator that it can."""

_INLINE_BYTES = 1_800_000_000  # protobuf ends at 2 GiB


def read_graph(path: Path) -> Any:
    """The ONNX model at `path`, weights included."""
    return need("onnx", why="to change graphs").load(str(path))


def read_graph_to_quantize(path: Path) -> Any:
    """`read_graph` without the exporter's notes on shapes: the quantizer transposes weights and would contradict them."""
    model = read_graph(path)
    del model.graph.value_info[:]
    return model


def write_graph(model: Any, folder: Path) -> Path:
    """`model` as folder/model.onnx; weights go beside it (model.onnx.data) where one file cannot hold them."""
    onnx = need("onnx", why="to change graphs")
    path = folder / _FILE
    if model.ByteSize() > _INLINE_BYTES:
        onnx.save(model, str(path), save_as_external_data=True, location=f"{_FILE}.data")
    else:
        onnx.save(model, str(path))
    return path


def calibration_samples(candidate: Candidate, context: Context, limit: int) -> Iterator[dict[str, np.ndarray]]:
    """Up to `limit` samples of the calibrate split as the model wants them: one at a time, or its fixed batch."""
    arrays = context.calibration_arrays()
    size = candidate.signature.batch or 1
    total = min(limit, *(len(array) for array in arrays.values()))
    for start in range(0, total - size + 1, size):
        yield {spec.name: np.ascontiguousarray(arrays[spec.name][start : start + size], spec.dtype) for spec in candidate.signature.inputs}


def is_transformer(operators: Mapping[str, int]) -> bool:
    """Whether a graph looks like one: attention needs Softmax and MatMul, and convolutions are few."""
    return operators.get("Softmax", 0) > 0 and operators.get("MatMul", 0) > operators.get("Conv", 0)


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Foreign code that prints, logs and warns, runs in silence; what it raises becomes NotPossibleHere about `what`.

    Techniques run in a child process of their own, so that redirecting its streams disturbs nobody.
    """
    try:
        with silence():
            yield
    except (HastenError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise NotPossibleHere(what, f"failed on this model ({type(error).__name__}: {text[:300]})") from error
