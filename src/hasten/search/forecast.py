"""What a step promises before it is taken: from a profile of this model on this machine, and from what earlier steps taught.

The physical part: a runtime's time for the float model, operator by operator, with the share that a technique computes in short numbers
scaled by what short numbers gained in the same runtime on this machine. What that misses (memory, reorders, kernels that are not there)
the surrogate learns as effects of the technique, the runtime and their pair on the logarithm of the speed-up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from ..core.seams import Forecast, OperatorTime


@dataclass(frozen=True, kw_only=True)
class Promise:
    """speedup: over the reference (for other objectives: how many times less of what is minimised), with its 90 % range; right:
    probability that quality holds; seconds: what finding out takes."""

    speedup: float
    low: float
    high: float
    right: float
    seconds: float

    @property
    def text(self) -> str:
        return f"{self.speedup:.2f}x ({self.low:.2f} to {self.high:.2f}), right with {100 * self.right:.0f} %, {self.seconds:.0f} s"

    def to_json(self) -> dict[str, float]:
        return {k: round(v, 4) for k, v in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Physics:
    """Measured facts, by runtime. relative_time: the float model's best time there over the reference's time; shares: kind of layer
    (`Conv 1x1`) or operator -> share of that time; gains: kind of layer -> time in int8 over time in float32."""

    relative_time: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def speedup(self, forecast: Forecast, runtime: str) -> float:
        """Over the reference; the technique's own word where nothing was measured."""
        slower = self.relative_time.get(runtime, 1.0)
        if not forecast.int8_operators:
            return forecast.speedup / slower
        if runtime not in self.shares or runtime not in self.gains:
            return forecast.speedup / slower
        gains = self.gains[runtime]
        left = sum(
            share * (gains.get(kind, 1.0) if kind.split(" ")[0] in forecast.int8_operators else 1.0)
            for kind, share in self.shares[runtime].items()
        )
        return 1.0 / (slower * max(left, 1e-3))


Effects = Mapping[str, float]
"""Name of an effect -> how large it usually is: its standard deviation on the log speed-up."""


class Surrogate:
    """Learns what physics missed, as a sum of effects with known scales (Bayesian linear regression: a Gaussian process whose kernel is the
    scale squared summed over the effects that two steps share; Rasmussen & Williams 2006, 2.1).

    The scales are fixed: a search gives a handful of outcomes, too few to learn scales from. noise: standard deviation of an outcome
    around what is true, on the log speed-up: what a quick race with one set of processes gets wrong.
    """

    def __init__(self, noise: float = 0.03) -> None:
        self.noise = noise
        self._seen: list[Effects] = []
        self._residuals: list[float] = []

    def learn(self, effects: Effects, log_residual: float) -> None:
        """One outcome: measured minus physical log speed-up."""
        self._seen.append(effects)
        self._residuals.append(log_residual)

    def predict(self, effects: Effects) -> tuple[float, float]:
        """Mean and standard deviation of the true log residual of a step with these effects, whether it was tried or not."""
        prior = _kernel(effects, effects)
        if not self._seen:
            return 0.0, math.sqrt(prior)
        gram = np.array([[_kernel(a, b) for b in self._seen] for a in self._seen]) + self.noise**2 * np.eye(len(self._seen))
        cross = np.array([_kernel(effects, seen) for seen in self._seen])
        solved = np.linalg.solve(gram, cross)
        return float(solved @ np.array(self._residuals)), math.sqrt(max(1e-12, prior - float(solved @ cross)))


def _kernel(a: Effects, b: Effects) -> float:
    return sum(scale * b[name] for name, scale in a.items() if name in b)


def shares(operators: Sequence[OperatorTime], kinds: Mapping[str, str]) -> dict[str, float]:
    """The share of time by kind: that of the first node with a kind of its own that an operator computes, else the operator's."""
    total = sum(o.seconds for o in operators) or 1.0
    found: dict[str, float] = {}
    for operator in operators:
        kind = next((kinds[node] for node in operator.nodes if node in kinds), operator.kind)
        found[kind] = found.get(kind, 0.0) + operator.seconds / total
    return found


def expected_improvement(mean: float, deviation: float, best: float) -> float:
    """Of a normal variable over `best`, nothing where it is less (Jones, Schonlau & Welch 1998, J. Global Optimization 13:455, eq. 15)."""
    z = (mean - best) / deviation
    return float((mean - best) * stats.norm.cdf(z) + deviation * stats.norm.pdf(z))


def probability_within(drop: float, deviation: float, limit: float) -> float:
    """That a loss of which `drop` +- `deviation` is known is within `limit`."""
    return float(stats.norm.cdf((limit - drop) / max(deviation, 1e-9)))


def share_right(outcomes: Sequence[float]) -> float:
    """Probability that the next variant of a technique is right, from how its siblings ended (1 right, 0 wrong, between: unsure).

    The mean of a Beta(1.5, 0.5) prior with them added.
    """
    return (1.5 + sum(outcomes)) / (2.0 + len(outcomes))
