"""Outliers of activations moved into weights, where 8 bits bear them better: the step before quantising a transformer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.candidate import Candidate
from ..core.errors import NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Context, Forecast, Profile, Technique, option
from ._graph import calibration_samples, is_transformer, quietly, read_graph, write_graph

_STRENGTHS = (0.25, 0.5, 0.65, 0.8, 0.95)  # that are compared where none is given
_WORTH = 0.8  # of the noise without it: an operator more must be paid for
_LEAST = 1e-5  # what is smaller has no range to speak of
_ACTIVATION_STEPS, _WEIGHT_STEPS = 255, 127  # from the least to the largest activation; from 0 to the largest weight


@dataclass(frozen=True, kw_only=True)
class SmoothQuant(Technique):
    """Each channel of what enters a matrix product is divided by a scale and the weight's row multiplied by it (Xiao et al. 2022,
    arXiv:2211.10438, equations 3 and 4): the same outputs, from activations that share one range better.

    The division goes into the layer normalisation before it where nothing else reads that, and is an operator of its own elsewhere. The
    quantiser comes afterwards; one that moves outliers itself (NNCF's, told that the model is a transformer) does not need it.
    """

    name: ClassVar[str] = "smooth-quant"
    rescues: ClassVar[frozenset[str]] = frozenset({"int8-activations"})
    forbids: ClassVar[frozenset[str]] = frozenset({"int8-weights", "float16-weights", "smoothed"})
    adds: ClassVar[frozenset[str]] = frozenset({"smoothed"})
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    strength: float = option(
        0.0, "How much of an outlier goes into the weights: 1 all of it, 0.5 half. 0: what makes least noise, for each layer.",
        low=0.0, high=1.0,
    )  # fmt: skip
    num_samples: int = option(100, "Samples of the calibrate split.", unit="samples", low=1)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if absent := missing("onnx", "onnxruntime"):
            return absent
        if profile.operators and not is_transformer(profile.operators):
            return "the graph is no transformer, whose activations have the outliers that it moves"
        return None

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=5.0 + 0.05 * min(self.num_samples, profile.num_calibration or self.num_samples))

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        model = read_graph(candidate.path)
        samples = list(calibration_samples(candidate, context, self.num_samples))
        constants = _Constants(model.graph)
        groups = _groups(model.graph, constants)
        if not samples or not groups:
            raise NotPossibleHere(f"technique {self.name}", "needs matrix products with weights of their own, and samples")
        with quietly(f"technique {self.name}"):
            seen = _watch(candidate.path, list(groups), samples)
            scales = {source: self._scale(seen[source], _weights(nodes, constants)) for source, nodes in groups.items()}
            for source, scale in scales.items():
                if scale is not None:
                    _move(model.graph, constants, source, groups[source], scale)
        if all(scale is None for scale in scales.values()):
            raise NotPossibleHere(f"technique {self.name}", "found no layer that it would make more exact in 8 bits")
        return candidate.then(self.step(), write_graph(model, context.folder), adds=self.adds, lossless=False)

    def _scale(self, seen: Seen, weight: np.ndarray) -> np.ndarray | None:
        """By which the input is divided, [C]; None to leave the layer as it is. weight: [C, O]."""
        of_input = np.maximum(np.maximum(-seen.low, seen.high), _LEAST)
        of_weight = np.maximum(np.abs(weight).max(1), _LEAST)

        def of(strength: float) -> np.ndarray:
            return np.asarray(of_input**strength / of_weight ** (1 - strength))

        if self.strength:
            return of(self.strength)
        least, best = min((noise(seen, weight, of(strength)), strength) for strength in _STRENGTHS)
        return of(best) if least <= _WORTH * noise(seen, weight, np.ones(len(weight))) else None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a tensor held over all samples, by channel, [C]. low, high: least and largest; power: the mean of squares."""

    low: np.ndarray
    high: np.ndarray
    power: np.ndarray


def noise(seen: Seen, weight: np.ndarray, scale: np.ndarray) -> float:
    """Mean squared error of a matrix product in 8 bits, summed over its outputs: rounding errors are taken as uniform and independent.

    seen: its input; weight: [C, O]; scale: [C], by which the input is divided and the weight multiplied.
    """
    step = (max(0.0, float((seen.high / scale).max())) - min(0.0, float((seen.low / scale).min()))) / _ACTIVATION_STEPS
    power, scaled = seen.power / scale**2, weight * scale[:, None]
    of_activation = np.minimum(step**2 / 12, power)  # what is smaller than a step is lost, and no more
    steps = np.abs(scaled).max(0) / _WEIGHT_STEPS
    return float((of_activation * np.square(scaled).sum(1)).sum() + np.square(steps).sum() / 12 * power.sum())


def _watch(path: Path, names: Sequence[str], samples: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Seen]:
    """What inner tensors of the graph at `path` hold; channels are their last axis."""
    onnx, ort = need("onnx", why="to look into graphs"), need("onnxruntime", why="to look into graphs")
    model = onnx.load(str(path))
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in names}
    for sample in samples:
        for name, values in zip(names, session.run(list(names), dict(sample)), strict=True):
            channels = values.reshape(-1, values.shape[-1]).astype(np.float64)
            rows[name].append((channels.min(0), channels.max(0), np.square(channels).mean(0)))
    found = {}
    for name, each in rows.items():
        low, high, power = (np.array(part) for part in zip(*each, strict=True))
        found[name] = Seen(low=low.min(0), high=high.max(0), power=power.mean(0))
    return found


class _Constants:
    """The initializers of a graph that one node reads, and nothing else: what may be changed in place."""

    def __init__(self, graph: Any) -> None:
        self._numpy = need("onnx", why="to change graphs").numpy_helper
        reads = Counter(name for node in graph.node for name in node.input)
        reads.update(value.name for value in graph.output)
        self._tensors = {t.name: t for t in graph.initializer if reads[t.name] == 1}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._numpy.to_array(self._tensors[name]))

    def change(self, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Store what `change` makes of it, in its own type."""
        old = self[name]
        self._tensors[name].CopyFrom(self._numpy.from_array(change(old).astype(old.dtype), name))


def _groups(graph: Any, constants: _Constants) -> dict[str, list[Any]]:
    """Tensor -> the matrix products that read it and have weights of their own."""
    found: dict[str, list[Any]] = {}
    for node in graph.node:
        is_product = node.op_type in ("MatMul", "Gemm") and node.input[1] in constants and not _flag(node, "transA")
        if is_product and constants[node.input[1]].ndim == 2:
            found.setdefault(node.input[0], []).append(node)
    return found


def _weights(nodes: Sequence[Any], constants: _Constants) -> np.ndarray:
    """Of all of them, [C, O]."""
    each = [constants[node.input[1]].T if _flag(node, "transB") else constants[node.input[1]] for node in nodes]
    return np.concatenate(each, axis=1).astype(np.float64)


def _move(graph: Any, constants: _Constants, source: str, nodes: Sequence[Any], scale: np.ndarray) -> None:
    """Divide `source` by the scale for `nodes`, and multiply their weights by it."""
    for node in nodes:
        by = scale if _flag(node, "transB") else scale[:, None]
        constants.change(node.input[1], lambda weight, by=by: weight * by)  # type: ignore[misc]
    before = next((n for n in graph.node if source in n.output and n.op_type == "LayerNormalization"), None)
    read = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    if before is not None and read.count(source) == len(nodes) and all(name in constants for name in before.input[1:]):
        for name in before.input[1:]:
            constants.change(name, lambda value: value / scale)
    else:
        _insert(graph, source, nodes, scale)


def _insert(graph: Any, source: str, nodes: Sequence[Any], scale: np.ndarray) -> None:
    """An operator that divides `source` for `nodes`."""
    onnx = need("onnx", why="to change graphs")
    by, divided = f"{source}_smooth_by", f"{source}_smooth"
    graph.initializer.append(onnx.numpy_helper.from_array((1 / scale).astype(np.float32), by))
    first = next(place for place, node in enumerate(graph.node) if any(node is reader for reader in nodes))
    for node in nodes:
        node.input[0] = divided
    graph.node.insert(first, onnx.helper.make_node("Mul", [source, by], [divided], name=divided))


def _flag(node: Any, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)
