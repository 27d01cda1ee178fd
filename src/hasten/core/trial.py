"""One program that was tried: the candidate, the runtime and its knobs, what was measured, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from .candidate import Candidate
from .measurement import Interval, Measurement, Verdict
from .seams import Runtime


class Fate(StrEnum):
    """How a trial ended."""

    START = "start"  # the user's own program: what `over_start` compares with
    REFERENCE = "reference"  # the fastest lossless program: what must be beaten
    ANSWER = "answer"
    PASSED = "passed"  # keeps the limits, but another one is better
    PROMISING = "promising"  # undecided: more samples would tell
    LOST = "lost"  # not better than the reference, or surely over a limit
    FAILED = "failed"  # could not be built or run


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Nothing is changed in place: `with_` gives the trial with more known about it.

    speedup: over the reference in the same interleaved run; drop: quality lost against the original, in points, on the
    select split; verdict: on the certify split.
    """

    candidate: Candidate
    runtime: Runtime
    fate: Fate = Fate.LOST
    reason: str = ""
    measurements: tuple[Measurement, ...] = ()
    speedup: Interval | None = None
    drop: Interval | None = None
    verdict: Verdict | None = None
    quality: dict[str, float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.candidate.then(self.runtime.step(), self.candidate.path).id

    @property
    def text(self) -> str:
        """`simplify > static-int8 > onnxruntime(threads=1)`."""
        return " > ".join([*self.candidate.recipe, self.runtime.step().text])

    def with_(self, **known: Any) -> Trial:
        return replace(self, **known)

    def measured(self, *more: Measurement) -> Trial:
        return replace(self, measurements=(*self.measurements, *more))

    def latest(self, metric: str) -> Measurement | None:
        """The measurement of `metric` that was taken last."""
        return next((m for m in reversed(self.measurements) if m.metric == metric), None)
