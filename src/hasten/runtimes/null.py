"""Computes nothing: zeros of the right shape. For tests of everything around a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.seams import Arrays, Program, Runtime, Target, option
from ..core.signature import Signature
from ._folder import read_signature, write_signature


@dataclass(frozen=True, kw_only=True)
class Null(Runtime):
    """Zeros instead of outputs; needs no model library. Only for candidates that carry the fact `null-allowed`."""

    name: ClassVar[str] = "null"
    floor: ClassVar[Floor] = Floor.GRAPH

    threads: int = option(0, "Threads; it uses none. 0: the target's.", choices=(0,), low=0)

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        if candidate is not None and "null-allowed" in candidate.facts:
            return None
        return "it computes nothing: it is there for tests"

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        write_signature(candidate.signature, folder)

    def load(self, folder: Path, target: Target) -> Program:
        return _Zeros(read_signature(folder))


class _Zeros(Program):
    def __init__(self, signature: Signature) -> None:
        self._signature = signature

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        first = self._signature.inputs[0].name
        batch = len(inputs[first])
        return {spec.name: np.zeros([batch, *(n or 1 for n in spec.shape[1:])], spec.dtype) for spec in self._signature.outputs}
