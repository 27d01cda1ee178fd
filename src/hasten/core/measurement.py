"""Numbers with their origin: raw samples, how and where they were taken, and an interval. Never a lone mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

import numpy as np

from .intervals import block_bounds, median_bounds, percentile_place, student_quantile

MOMENT_SECONDS = 0.02
"""Calls that start within so long of each other meet the same moment of the machine: what wakes up slows all of them."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the bounds that hold it with probability `level`; `n` independent observations carry it."""

    value: float
    low: float
    high: float
    level: float = 0.95
    n: int = 0

    def to_json(self) -> dict[str, Any]:
        return {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Interval:
        known: dict[str, Any] = {k: (math.nan if v is None else v) for k, v in value.items()}
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One metric of one program.

    samples: raw, in SI units (seconds, bytes) or the metric's own; groups: the interleaved round of each sample
    (same length, or empty); cpu_seconds: CPU time of each timed run (same length, or empty); method: how they
    were taken; where: machine and versions.
    """

    metric: str
    unit: str
    samples: tuple[float, ...]
    groups: tuple[int, ...] = ()
    cpu_seconds: tuple[float, ...] = ()
    method: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)

    def round_medians(self) -> np.ndarray:
        """The median of each round, in the order of the rounds: shape [rounds]."""
        if not self.groups:
            return np.asarray(self.samples)
        rounds: dict[int, list[float]] = {}
        for group, sample in zip(self.groups, self.samples, strict=True):
            rounds.setdefault(group, []).append(sample)
        return np.array([median(rounds[group]) for group in sorted(rounds)])

    def interval(self, level: float = 0.95) -> Interval:
        """The median over rounds, with bounds that assume no distribution of the rounds.

        Order statistics of the round medians (`intervals.median_bounds`). Where several sets of processes ran
        (`method["block_of_round"]`), each has its luck and its moment of the machine: the bounds are then no narrower than Student's
        interval of the logarithms of the block medians, and n counts the blocks. With one set of processes the interval speaks
        for those processes alone. Fewer than 6 rounds give the range of what was seen, at the level which that range carries.
        """
        rounds = self.round_medians()
        if len(rounds) == 0:
            return Interval(value=math.nan, low=math.nan, high=math.nan, level=level, n=0)
        low, high, carried = median_bounds(rounds, level)
        blocks = np.asarray(self.method.get("block_of_round", ()))
        names = np.unique(blocks)
        if len(blocks) != len(rounds) or len(names) < 2 or low <= 0:
            return Interval(value=float(np.median(rounds)), low=low, high=high, level=carried, n=len(rounds))
        outer = np.exp(block_bounds(np.log([np.median(rounds[blocks == name]) for name in names]), level))
        low, high = min(low, float(outer[0])), max(high, float(outer[1]))
        return Interval(value=float(np.median(rounds)), low=low, high=high, level=level, n=len(names))

    @property
    def num_moments(self) -> int:
        """At how many moments of the machine it was looked: the calls of one round within MOMENT_SECONDS saw the same one.

        What makes one call slow (another process, a page fault, a clock step) makes its neighbours slow too, so that 600 calls in 60
        slices say little more about the slowest 5 % than 60 calls would. Without groups each sample is a moment of its own.
        """
        if not self.groups:
            return len(self.samples)
        rounds: dict[int, list[float]] = {}
        for group, sample in zip(self.groups, self.samples, strict=True):
            rounds.setdefault(group, []).append(sample if self.unit == "s" else 0.0)
        return sum(min(len(calls), max(1, int(sum(calls) / MOMENT_SECONDS))) for calls in rounds.values())

    def percentile(self, q: float, level: float = 0.95) -> float | None:
        """The q-th percentile (0-100) of all samples, or None where they do not own it.

        Owned: with probability `level` at least, something beyond the true percentile was seen: 1 - (q/100)^num_moments >= level. p95
        wants 59 moments, p99 wants 299.
        """
        n = self.num_moments
        if n == 0 or 1 - (q / 100) ** n < level:
            return None
        return float(np.percentile(np.asarray(self.samples), q))

    def percentile_bound(self, q: float, level: float = 0.95) -> float | None:
        """The one-sided upper bound of the q-th percentile (0-100), or None where the samples do not own it.

        An order statistic. Slow calls come in clusters: the samples count as many as the independent ones that would tell the share
        beyond the percentile as well (Woodruff 1952, JASA 47:635, with rounds as clusters), at least as many as there were
        moments. It speaks of the processes and of the time that were measured.
        """
        point = self.percentile(q, level)
        if point is None:
            return None
        ordered = np.sort(self.samples)
        effective = max(self.num_moments, len(ordered) / self._clustering(point))
        place = percentile_place(len(ordered), effective, q, level)
        return None if place is None else float(ordered[place])

    def _clustering(self, point: float) -> float:
        """The variance of the share of samples beyond `point`, over that of independent samples; at least 1.

        Known from no more rounds than hold such a sample, which Student's quantile in place of the normal one allows for.
        """
        if not self.groups:
            return 1.0
        beyond = np.asarray(self.samples) > point
        _, rounds = np.unique(self.groups, return_inverse=True)
        sizes, share = np.bincount(rounds), float(beyond.mean())
        if len(sizes) < 2 or not 0 < share < 1:
            return 1.0
        hits = np.bincount(rounds, weights=beyond)
        apart = float(((hits - share * sizes) ** 2).sum()) * len(sizes) / (len(sizes) - 1)
        unsure = student_quantile(0.95, max(1, int((hits > 0).sum()) - 1)) / 1.645  # over the normal one
        return max(1.0, apart / (len(beyond) * share * (1 - share))) * unsure**2

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measurement:
        tuples = {k: tuple(value.get(k, ())) for k in ("samples", "groups", "cpu_seconds")}
        return cls(**{**dict(value), **tuples})


Outcome = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a statement holds, with the numbers and the sentence that say why.

    drop: the quality lost against the original, in points (None for parity); limit: what was allowed;
    alpha: the one-sided error rate spent; needed_samples: how many would decide an undecided one.
    """

    outcome: Outcome
    reason: str
    drop: Interval | None = None
    limit: float | None = None
    alpha: float | None = None
    needed_samples: int | None = None
    method: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "drop": self.drop.to_json() if self.drop else None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        drop = value.get("drop")
        return cls(**{**dict(value), "drop": Interval.from_json(drop) if drop else None})
