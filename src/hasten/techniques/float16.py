"""Weights in 16 bits: half the size, computed in 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core.candidate import Candidate
from ..core.errors import NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Context, Forecast, Profile, Technique, option
from ._graph import quietly, read_graph, write_graph

_LARGEST = 65504.0  # the largest finite float16


@dataclass(frozen=True, kw_only=True)
class Float16(Technique):
    """Weights stored as float16 (11 significant bits) and widened when the model is loaded.

    ONNX Runtime and OpenVINO fold the widening away at load, so the speed stays that of float32, whatever the processor has.
    """

    name: ClassVar[str] = "float16"
    forbids: ClassVar[frozenset[str]] = frozenset({"int8-weights", "float16-weights"})
    adds: ClassVar[frozenset[str]] = frozenset({"float16-weights"})
    packages: ClassVar[tuple[str, ...]] = ("onnx",)

    min_elements: int = option(256, "Smaller tensors (biases, shapes) stay as they are: they save nothing.", low=1)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if profile.objective != "size":
            return f"it halves the size and leaves the speed as it is: nothing is won for {profile.objective}"
        return missing("onnx")

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=2.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        onnx = need("onnx", why="to store weights as float16")
        model = read_graph(candidate.path)
        with quietly("technique float16"):
            changed = [
                tensor
                for tensor in model.graph.initializer
                if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= self.min_elements and _narrow(onnx, tensor)
            ]
            for tensor in changed:
                wide, tensor.name = tensor.name, f"{tensor.name}_float16"
                node = onnx.helper.make_node("Cast", [tensor.name], [wide], name=f"{wide}_widen", to=onnx.TensorProto.FLOAT)
                model.graph.node.insert(0, node)
        if not changed:
            raise NotPossibleHere("technique float16", f"needs float32 weights of at least {self.min_elements} elements", got="none")
        return candidate.then(self.step(), write_graph(model, context.folder), adds=self.adds, lossless=False)


def _narrow(onnx: Any, tensor: Any) -> bool:
    """Store `tensor` as float16; False, and nothing is changed, where a value would overflow."""
    values = onnx.numpy_helper.to_array(tensor)
    if not np.abs(values).max(initial=0) <= _LARGEST:
        return False
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name))
    return True
