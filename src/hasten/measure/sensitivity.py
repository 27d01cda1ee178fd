"""What 8-bit numbers in one part of a graph alone do to its outputs.

Each part (a weighted operator with what follows it) is quantised by itself, and the outputs are compared with the float ones on
calibration samples. Small independent errors add up in power at the output (Lin, Talathi & Annapureddy 2016, arXiv:1511.06393, allot bits
by it), so the noise of a set of parts is about the sum of theirs: good enough to choose a set, which is then judged as a whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import NotPossibleHere
from ..core.need import need
from .silence import silence
from .worker import State

WEIGHTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_FOLLOWING = frozenset({"Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool"})
_MAX_PARTS = 64


@dataclass(frozen=True, kw_only=True)
class Part:
    """nodes: names in the graph; noise: mean square error of the outputs over their mean square, when only this part is in 8 bits."""

    nodes: tuple[str, ...]
    noise: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Part:
        return cls(nodes=tuple(value["nodes"]), noise=value["noise"])


def measure_parts(
    state: State, path: Path, tensors: Mapping[str, Path], *, batch: int, reduce_range: bool, num_samples: int = 32
) -> list[dict[str, Any]]:
    """The parts of the graph at `path`, each with its noise, as JSON; in the order of execution.

    tensors: .npy [N, ...] by input name, of which the first `num_samples` are used; batch: samples a call. Call it in a child process: it
    silences what others print. Raises NotPossibleHere where the graph has no parts that can be told apart by name.
    """
    onnx = need("onnx", why="to look into graphs")
    model = onnx.load(str(path))
    groups = part_nodes([(node.name, node.op_type) for node in model.graph.node])
    samples = _samples(tensors, batch, num_samples)
    if len(groups) < 2 or not samples:
        raise NotPossibleHere("mixed precision", "needs a graph with two or more named Conv, MatMul or Gemm nodes, and samples")
    right = _outputs(model.SerializeToString(), samples)
    del model.graph.value_info[:]  # the quantizer transposes weights and would contradict them
    with tempfile.TemporaryDirectory() as scratch, silence():
        ranges = Path(scratch) / "ranges.json"
        return [
            Part(nodes=nodes, noise=_noise(right, _outputs(_quantised(model, nodes, ranges, samples, reduce_range), samples))).to_json()
            for nodes in groups
        ]


def part_nodes(nodes: Sequence[tuple[str, str]], *, max_parts: int = _MAX_PARTS) -> list[tuple[str, ...]]:
    """(name, operator) in the order of execution -> names by part: a weighted operator, and what is behind it that can be quantised too.

    Neighbours are joined where there would be more than `max_parts`. Empty where names are missing or not unique.
    """
    groups: list[list[str]] = []
    named = [name for name, kind in nodes if kind in WEIGHTED | _FOLLOWING]
    if not all(named) or len(set(named)) != len(named):
        return []
    for name, kind in nodes:
        if kind in WEIGHTED:
            groups.append([name])
        elif kind in _FOLLOWING and groups:
            groups[-1].append(name)
    each = -(-len(groups) // max_parts) or 1
    return [tuple(name for group in groups[at : at + each] for name in group) for at in range(0, len(groups), each)]


def _samples(tensors: Mapping[str, Path], batch: int, limit: int) -> list[dict[str, np.ndarray]]:
    arrays = {name: np.load(path, mmap_mode="r") for name, path in tensors.items()}
    total = min(limit, *(len(a) for a in arrays.values()))
    return [{name: np.ascontiguousarray(a[at : at + batch]) for name, a in arrays.items()} for at in range(0, total - batch + 1, batch)]


def _quantised(model: Any, nodes: Sequence[str], ranges: Path, samples: list[dict[str, np.ndarray]], reduce_range: bool) -> bytes:
    """The graph with only `nodes` in 8 bits, as the technique static-int8 does it; calibrated once, the ranges are kept in a file."""
    quantization: Any = need("onnxruntime.quantization", why="to quantise")
    onnx = need("onnx")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._next = iter(samples)

        def get_next(self) -> Any:
            return next(self._next, None)

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    target = ranges.with_name("part.onnx")
    quantization.quantize_static(
        copy, str(target), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True, reduce_range=reduce_range,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8, nodes_to_quantize=list(nodes),
        calibration_cache_path=ranges,
    )  # fmt: skip
    return target.read_bytes()


def _outputs(model: bytes, samples: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """Every output that is a float number, over all samples, flattened: [samples x ...] each."""
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = [session.run(None, dict(sample)) for sample in samples]
    return [np.concatenate([np.ravel(row[n]) for row in rows]) for n in range(len(rows[0])) if rows[0][n].dtype.kind == "f"]


def _noise(right: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """The worst output's share of noise."""
    shares = [float(np.mean((a - b) ** 2) / max(1e-30, float(np.mean(a**2)))) for a, b in zip(right, got, strict=True)]
    return max(s if np.isfinite(s) else 1e6 for s in shares)
