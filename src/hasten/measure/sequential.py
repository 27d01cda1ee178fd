"""Samples are spent bit by bit: a candidate that is surely in or surely out needs no more of them.

A group-sequential test. The final look has half of each error rate and the earlier looks share the other half evenly
(Bonferroni, weighted; Dunn 1961, JASA 56:52). So the probability that a candidate which keeps the limit is ever called "out" is at
most `alpha_out`, and that one over the limit is ever called "in" at most `alpha_in`, however dependent the looks
are: as exactly as each single bound holds its own rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ..core.measurement import Interval
from .quality import Metric

Decision = Literal["out", "in", "go on", "unsure"]


def looks(n: int, *, first: int = 128) -> list[int]:
    """The growing sample counts after which to judge: first, twice that, ..., n, each at least 1.5 times the one before."""
    sizes = []
    size = first
    while size * 1.5 <= n:
        sizes.append(size)
        size *= 2
    return [*sizes, n]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen at one look: the decision and the two drops, each with the bounds of its error rate."""

    decision: Decision
    num_samples: int
    drop_out: Interval
    drop_in: Interval


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """Judges cumulative paired rows of one candidate against `limit` (in the metric's loss unit) at each of looks(n).

    num_samples: all there are; alpha_out: probability of rejecting a candidate that keeps the limit; alpha_in: of accepting
    one that does not; both over all looks together.
    """

    metric: Metric
    limit: float
    num_samples: int
    alpha_out: float = 0.05
    alpha_in: float = 0.05
    seed: int = 0

    @cached_property
    def looks(self) -> list[int]:
        return looks(self.num_samples)

    def look(self, reference_rows: np.ndarray, candidate_rows: np.ndarray) -> Look:
        """The first rows [m, ...] of both, m one of `looks`: "out" (surely over the limit), "in" (surely within), "go on",
        or after the last sample "unsure"."""
        m = len(candidate_rows)
        share = self._share(m)
        drop_out = self._drop(reference_rows, candidate_rows, self.alpha_out * share)
        drop_in = drop_out if self.alpha_in == self.alpha_out else self._drop(reference_rows, candidate_rows, self.alpha_in * share)
        decision: Decision = "unsure" if m == self.num_samples else "go on"
        if drop_out.low > self.limit:
            decision = "out"
        elif drop_in.high <= self.limit:
            decision = "in"
        return Look(decision=decision, num_samples=m, drop_out=drop_out, drop_in=drop_in)

    def _share(self, m: int) -> float:
        """The part of the error rates that the look at m samples may spend."""
        if len(self.looks) == 1:
            return 1.0
        return 0.5 if m == self.num_samples else 0.5 / (len(self.looks) - 1)

    def _drop(self, reference_rows: np.ndarray, candidate_rows: np.ndarray, alpha: float) -> Interval:
        return self.metric.drop(reference_rows[: len(candidate_rows)], candidate_rows, alpha=alpha, seed=self.seed)
