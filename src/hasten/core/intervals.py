"""Bounds of a median and of a percentile that assume no distribution, and how many independent values there are.

Order statistics: David & Nagaraja, Order Statistics (2003), 7.1. SciPy has the distributions too, but what reads and serves a bundle must
run without it; tests compare the two.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


def median_bounds(values: np.ndarray, level: float) -> tuple[float, float, float]:
    """Order statistics of `values` [N], in the order in which they were taken, that hold their median, and the level that they carry.

    What follows one another is alike, so the ranks are those of `effective_number` values, spread over all. Where that is too few for the
    level, the range of what was seen is given; with N under 6 it carries less than 95 %, and says so.
    """
    ordered, n = np.sort(values), len(values)
    effective = int(effective_number(values))
    rank = binomial_quantile(effective, 0.5, (1 - level) / 2)  # as many values lie below the lower bound's place
    place = max(0, int(rank / effective * n) - 1)
    return float(ordered[place]), float(ordered[n - 1 - place]), min(level, 1 - 2 * 0.5**n)


def block_bounds(logs: np.ndarray, level: float) -> tuple[float, float]:
    """Student's interval of the mean of a few values [B], B at least 2."""
    half = student_quantile(0.5 + level / 2, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return float(logs.mean()) - half, float(logs.mean()) + half


def percentile_place(n: int, effective: float, q: float, level: float) -> int | None:
    """Which of n ordered values (0 is the least) lies above the q-th percentile (0-100) with probability `level`, one-sided.

    effective: how many independent values they are worth. None where no value does: (q/100)^effective > 1 - level.
    """
    count = int(effective)
    rank = binomial_quantile(count, q / 100, level)  # so many values lie below the percentile at most, with that probability
    return None if rank >= count else min(n - 1, math.ceil((rank + 1) / count * n) - 1)


def effective_number(values: np.ndarray) -> float:
    """How many independent values carry as much about the mean as these [N]: an AR(1) model, at least 2."""
    n = len(values)
    centered = values - values.mean()
    power = float(centered @ centered)
    if power == 0 or n < 4:
        return float(n)
    lag = float(centered[1:] @ centered[:-1]) / power
    lag = min(0.99, max(0.0, lag + (1 + 3 * max(0.0, lag)) / n))  # Kendall's correction of its bias
    return max(2.0, n * (1 - lag) / (1 + lag))


@lru_cache(maxsize=4096)
def binomial_quantile(n: int, p: float, probability: float) -> int:
    """The least k for which at most k of n successes, each of probability p, are seen with at least `probability`."""
    k = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    logs = factorials[n] - factorials - factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    return min(n, int(np.searchsorted(np.cumsum(np.exp(logs)), probability - 1e-12)))


@lru_cache(maxsize=256)
def student_quantile(probability: float, df: int) -> float:
    """The quantile (probability 0.5 to 1) of Student's t with a whole number of degrees of freedom (Abramowitz & Stegun 26.7.3, 26.7.4)."""
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(df))
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _student_within(angle, df) < 2 * probability - 1 else (low, angle)
    return math.sqrt(df) * math.tan(low)


def _student_within(angle: float, df: int) -> float:
    """The probability that |t| stays below sqrt(df) tan(angle)."""
    term = total = math.cos(angle) if df % 2 else 1.0
    for i in range(2 + df % 2, df - 1, 2):
        term *= math.cos(angle) ** 2 * (i - 1) / i
        total += term
    if df % 2:
        return 2 / math.pi * (angle + (math.sin(angle) * total if df > 1 else 0.0))
    return math.sin(angle) * total
