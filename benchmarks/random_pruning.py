"""A pruning whose widths are drawn at random, and nothing is trained: what predictions of latency are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hasten.core.candidate import Candidate, Floor
from hasten.core.seams import Context, Forecast, Profile, Technique, option
from hasten.techniques.structured_pruning import planned
from hasten.train.student import Student


@dataclass(frozen=True, kw_only=True)
class RandomPruning(Technique):
    """Each group of channels keeps a share between `least` and all of them, in multiples of `round_to`."""

    name: ClassVar[str] = "random-pruning"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    adds: ClassVar[frozenset[str]] = frozenset({"channels-pruned"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    number: int = option(0, "Which of all of them.")
    least: float = option(0.25, "Of a group's channels.")
    round_to: int = option(4, "Widths are multiples of it.")

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return None

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=1.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        student = Student.taught_in(context, candidate, alpha=1.0)
        cut, rng = planned(student), np.random.default_rng(self.number)
        for group in cut.groups:
            kept = rng.uniform(self.least, 1.0) * len(group.scores)
            width = min(len(group.scores), max(self.round_to, round(kept / self.round_to) * self.round_to))
            group.gone = len(group.scores) - width
        cut.make()
        return candidate.then(self.step(), student.export(context.folder), adds=self.adds, lossless=False)
