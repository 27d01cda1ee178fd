"""Numbers with their origin: raw samples, how and where they were taken, and an interval. Never a lone mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np


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
        samples = np.asarray(self.samples)
        if not self.groups:
            return samples
        groups = np.asarray(self.groups)
        return np.array([np.median(samples[groups == g]) for g in np.unique(groups)])

    def interval(self, level: float = 0.95) -> Interval:
        """The median over rounds with its distribution-free interval.

        The bounds are order statistics of the round medians (binomial: David & Nagaraja, Order Statistics, 7.1).
        Fewer rounds than the level needs give the range of what was seen, at the level which that range carries.
        """
        rounds = np.sort(self.round_medians())
        n = len(rounds)
        if n == 0:
            return Interval(value=math.nan, low=math.nan, high=math.nan, level=level, n=0)
        rank, carried = _median_rank(n, level)
        return Interval(value=float(np.median(rounds)), low=float(rounds[rank]), high=float(rounds[n - 1 - rank]), level=carried, n=n)

    def percentile(self, q: float, level: float = 0.95) -> float | None:
        """The q-th percentile (0-100), or None where the sample count does not own it.

        Owned: at least `level` probability that some sample lies beyond the true percentile AND that the estimate
        is bounded above by a sample: 1 - (q/100)^n >= level. p95 wants 59 samples, p99 wants 299.
        """
        n = len(self.samples)
        if n == 0 or 1 - (q / 100) ** n < level:
            return None
        return float(np.percentile(np.asarray(self.samples), q))

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


def _median_rank(n: int, level: float) -> tuple[int, float]:
    """The largest k for which [x(k), x(n-1-k)] holds the median with at least `level`, and what it truly carries."""
    best, best_level, tail = 0, 1 - 2 * 0.5**n, 0.0
    for k in range(n // 2):
        tail += math.comb(n, k) * 0.5**n if n < 1000 else math.exp(_log_comb(n, k) - n * math.log(2))
        if 1 - 2 * tail >= level:
            best, best_level = k, 1 - 2 * tail
        else:
            break
    return best, max(0.0, best_level)


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
