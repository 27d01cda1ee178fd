"""Fewer and larger operators, the same outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.candidate import Candidate
from ..core.errors import NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Context, Forecast, Profile, Technique
from ._graph import quietly, read_graph, write_graph

_CHECKED_BYTES = 2**31  # the checker reads one protobuf message, which ends there


@dataclass(frozen=True, kw_only=True)
class Simplify(Technique):
    """Constants folded, batch normalisation fused into convolutions, redundant and dead operators removed (onnxslim).

    Why this library: docs/decisions/0002-graph-simplifier.md.
    """

    name: ClassVar[str] = "simplify"
    lossless: ClassVar[bool] = True
    forbids: ClassVar[frozenset[str]] = frozenset({"simplified", "qdq"})
    adds: ClassVar[frozenset[str]] = frozenset({"simplified"})
    packages: ClassVar[tuple[str, ...]] = ("onnxslim", "onnx")

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return missing("onnxslim", "onnx")

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.02, seconds=2.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        onnxslim = need("onnxslim", why="to simplify graphs")
        onnx = need("onnx", why="to simplify graphs")
        model = read_graph(candidate.path)
        with quietly("technique simplify"):
            slim = onnxslim.slim(model)
            if slim.ByteSize() < _CHECKED_BYTES:
                onnx.checker.check_model(slim)
        names = [v.name for v in (*slim.graph.input, *slim.graph.output)]
        if set(names) != {spec.name for spec in (*candidate.signature.inputs, *candidate.signature.outputs)}:
            raise NotPossibleHere("technique simplify", "must keep the names of inputs and outputs", got=names)
        return candidate.then(self.step(), write_graph(slim, context.folder), adds=self.adds)
