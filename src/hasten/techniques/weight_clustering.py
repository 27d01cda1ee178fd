"""Weights that share a few values: a byte or less for each, computed in 32 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core.candidate import Candidate
from ..core.errors import NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Context, Forecast, Profile, Technique, option
from ._graph import quietly, read_graph, write_graph

_ROUNDS = 100  # of k-means, which has settled long before


@dataclass(frozen=True, kw_only=True)
class WeightClustering(Technique):
    """The weights of a layer become numbers into a table of its own, made by k-means (Han et al. 2016, arXiv:1510.00149, section 3).

    Runtimes look the values up once, when the model is loaded, so the speed stays that of float32. A number takes a byte; packed by the
    runtime, about the logarithm of the table's size in bits.
    """

    name: ClassVar[str] = "weight-clustering"
    forbids: ClassVar[frozenset[str]] = frozenset({"int8-weights", "float16-weights", "clustered-weights"})
    adds: ClassVar[frozenset[str]] = frozenset({"clustered-weights"})
    packages: ClassVar[tuple[str, ...]] = ("onnx",)

    num_values: int = option(64, "Values that the weights of a layer share.", choices=(64, 32, 16), low=2, high=256)
    min_elements: int = option(1024, "Smaller tensors (biases, shapes) stay as they are: they save nothing.", low=1)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if profile.objective != "size":
            return f"it shrinks the file and leaves the speed as it is: nothing is won for {profile.objective}"
        return missing("onnx")

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=5.0, smaller=32 / np.log2(self.num_values))

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        onnx = need("onnx", why="to cluster weights")
        model = read_graph(candidate.path)
        with quietly(f"technique {self.name}"):
            large = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) >= self.min_elements]
            for tensor in large:
                _share(onnx, model.graph, tensor, self.num_values)
        if not large:
            raise NotPossibleHere(f"technique {self.name}", f"needs float32 weights of at least {self.min_elements} elements", got="none")
        return candidate.then(self.step(), write_graph(model, context.folder), adds=self.adds, lossless=False)


def _share(onnx: Any, graph: Any, tensor: Any, num_values: int) -> None:
    """Store `tensor` as numbers into a table, and look its values up by operators that runtimes fold away."""
    name, weights = tensor.name, onnx.numpy_helper.to_array(tensor)
    table = shared_values(weights, num_values)
    numbers = np.searchsorted((table[1:] + table[:-1]) / 2, weights).astype(np.uint8)
    tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, f"{name}_numbers"))
    graph.initializer.append(onnx.numpy_helper.from_array(table, f"{name}_values"))
    widen = onnx.helper.make_node("Cast", [f"{name}_numbers"], [f"{name}_wide"], name=f"{name}_widen", to=onnx.TensorProto.INT32)
    look_up = onnx.helper.make_node("Gather", [f"{name}_values", f"{name}_wide"], [name], name=f"{name}_look_up")
    graph.node.insert(0, look_up)
    graph.node.insert(0, widen)


def shared_values(weights: np.ndarray, num_values: int) -> np.ndarray:
    """Sorted float32 values, at most `num_values`, that weights are near to: k-means on a line. Weights of zero stay zero."""
    ordered = np.sort(weights.ravel().astype(np.float64))
    ranks = (np.arange(num_values) + 0.5) / num_values
    # Between even in number and even in distance: many small weights and the few large ones both have their values.
    values = 0.5 * np.quantile(ordered, ranks) + 0.5 * np.linspace(ordered[0], ordered[-1], num_values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(ordered, (values[1:] + values[:-1]) / 2), [len(ordered)]])
        counts = np.diff(ends)
        moved = np.where(counts > 0, (sums[ends[1:]] - sums[ends[:-1]]) / np.maximum(counts, 1), values)
        if np.array_equal(moved, values):
            break
        values = moved
    if (weights == 0).any():
        values[np.argmin(np.abs(values))] = 0.0
    return np.unique(values.astype(np.float32))
