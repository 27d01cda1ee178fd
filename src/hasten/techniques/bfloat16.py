"""Arithmetic in bfloat16 where the processor has it: the graph stays, the runtime may round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.candidate import Candidate
from ..core.need import missing
from ..core.seams import Context, Forecast, Profile, Technique
from ._graph import read_graph, write_graph

_PROCESSOR = "bfloat16-arithmetic"


@dataclass(frozen=True, kw_only=True)
class Bfloat16(Technique):
    """Products of bfloat16 numbers (8 significant bits, the range of float32), summed in float32 (Kalamkar et al. 2019, arXiv:1905.12322).

    It needs no calibration. The graph is not changed: the fact `bfloat16-allowed` lets a runtime that can (OpenVINO) round, and others
    refuse it. It is a technique and no knob of the runtime, since it changes outputs and must be judged.
    """

    name: ClassVar[str] = "bfloat16"
    forbids: ClassVar[frozenset[str]] = frozenset({"int8-weights", "float16-weights", "bfloat16-allowed"})
    adds: ClassVar[frozenset[str]] = frozenset({"bfloat16-allowed"})
    packages: ClassVar[tuple[str, ...]] = ()

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if _PROCESSOR not in profile.facts:
            return "this processor multiplies no bfloat16 numbers (avx512_bf16, amx_bf16 or bf16)"
        if profile.objective == "size":
            return "it changes arithmetic, not weights: nothing is won for size"
        return missing("onnx")

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.4, seconds=1.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        path = write_graph(read_graph(candidate.path), context.folder)
        return candidate.then(self.step(), path, adds=self.adds, lossless=False)
