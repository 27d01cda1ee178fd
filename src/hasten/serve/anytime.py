"""Rates that are watched while they grow: bounds that hold at every moment at once, so that looking often costs nothing.

With s successes of n, the ratio of the Beta(1/2, 1/2) mixture's likelihood to that of the true rate is a martingale with mean 1. By
Ville's inequality it reaches 1/alpha, ever, with probability at most alpha (Robbins 1970, Ann. Math. Stat. 41:1397). The product of two
such ratios is one too, whoever decides which of the two is observed next, as long as he does not know what he will see (Kaufmann &
Koolen 2021, JMLR 22:246). Its least value over all pairs of rates with a given difference is the evidence against that difference; the
differences with too little evidence against them are the interval. Exact for any n; nothing is assumed but that outcomes of one arm are
independent and have one rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEPS = 50  # of a bisection: 1e-15 of the range


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Outcomes of one arm."""

    successes: int = 0
    failures: int = 0

    @property
    def n(self) -> int:
        return self.successes + self.failures

    @property
    def rate(self) -> float:
        """The share of successes; 0 where there are none."""
        return self.successes / max(self.n, 1)

    def plus(self, success: bool) -> Tally:
        """With one outcome more."""
        return Tally(successes=self.successes + success, failures=self.failures + (not success))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """rate(treatment) - rate(control), from -1 to 1, and the bounds that hold at every moment with probability `level`."""

    value: float
    low: float
    high: float
    level: float


def difference(control: Tally, treatment: Tally, *, level: float) -> Difference:
    """What is known about the difference of two rates after any number of outcomes."""
    enough = -math.log(1 - level)
    value = treatment.rate - control.rate

    def bound(inside: float, outside: float) -> float:
        if log_evidence(control, treatment, outside) < enough:
            return outside
        for _ in range(_STEPS):
            middle = (inside + outside) / 2
            if log_evidence(control, treatment, middle) < enough:
                inside = middle
            else:
                outside = middle
        return outside

    return Difference(value=value, low=bound(value, -1.0), high=bound(value, 1.0), level=level)


def surely_above(control: Tally, treatment: Tally, margin: float, *, alpha: float) -> bool:
    """Whether rate(treatment) - rate(control) > margin. Where it is not, this is ever said with probability at most `alpha`."""
    if treatment.rate - control.rate <= margin:
        return False
    return log_evidence(control, treatment, margin) >= -math.log(alpha)


def surely_above_half(tally: Tally, *, alpha: float) -> bool:
    """Whether the rate is above 1/2. Where it is not, this is ever said with probability at most `alpha`."""
    return tally.rate > 0.5 and _log_mixture(tally) + tally.n * math.log(2) >= -math.log(alpha)


def log_evidence(control: Tally, treatment: Tally, difference: float) -> float:
    """The logarithm of the evidence that the rates do not differ by `difference`: convex in it, least where it was observed."""
    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)  # of the control's rate
    rate = (low + high) / 2
    for _ in range(_STEPS if low < high else 0):
        if _slope(control, treatment, rate, difference) < 0:
            low = rate
        else:
            high = rate
        rate = (low + high) / 2
    likelihood = _log_likelihood(control, rate) + _log_likelihood(treatment, min(1.0, max(0.0, rate + difference)))
    return _log_mixture(control) + _log_mixture(treatment) - likelihood


def _slope(control: Tally, treatment: Tally, rate: float, difference: float) -> float:
    """Of minus the likelihood, over the control's rate. It grows with it."""
    return _one_slope(control, rate) + _one_slope(treatment, rate + difference)


def _one_slope(tally: Tally, rate: float) -> float:
    tiny = 1e-300
    return tally.failures / max(1 - rate, tiny) - tally.successes / max(rate, tiny)


def _log_mixture(tally: Tally) -> float:
    """log of the likelihood, averaged over Beta(1/2, 1/2)."""
    return math.lgamma(tally.successes + 0.5) + math.lgamma(tally.failures + 0.5) - math.lgamma(tally.n + 1) - math.log(math.pi)


def _log_likelihood(tally: Tally, rate: float) -> float:
    return _log_power(rate, tally.successes) + _log_power(1 - rate, tally.failures)


def _log_power(base: float, count: int) -> float:
    if not count:
        return 0.0
    return count * math.log(base) if base > 0 else -math.inf
