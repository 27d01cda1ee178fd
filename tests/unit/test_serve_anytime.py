"""Bounds that hold at every moment: their error over a whole experiment, their power, and what they are by definition."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import integrate, stats

from hasten.serve.anytime import Tally, difference, log_evidence, surely_above, surely_above_half

ALPHA = 0.05


def tally(successes: int, n: int) -> Tally:
    return Tally(successes=successes, failures=n - successes)


def allowed(runs: int, rate: float) -> int:
    """More errors than this are seen with probability 1e-4 where each run errs with probability `rate`."""
    return int(stats.binom.isf(1e-4, runs, rate))


@pytest.mark.parametrize(("p", "q", "share"), [(0.5, 0.5, 0.5), (0.02, 0.02, 0.1), (0.9, 0.8, 0.3), (0.0, 0.0, 0.5)])
def test_the_true_difference_is_ever_excluded_in_at_most_one_run_of_twenty(p: float, q: float, share: float) -> None:
    """Looked at after every single outcome, arms filled by chance."""
    rng, runs, errors = random.Random(7), 80, 0
    for _ in range(runs):
        arms = [Tally(), Tally()]
        for _ in range(250):
            arm = rng.random() < share
            arms[arm] = arms[arm].plus(rng.random() < (q if arm else p))
            if log_evidence(*arms, q - p) >= -math.log(ALPHA):
                errors += 1
                break
    assert errors <= allowed(runs, ALPHA)


def test_a_difference_of_ten_points_is_found_within_two_thousand_labels() -> None:
    rng, runs, found = random.Random(1), 100, 0
    for _ in range(runs):
        arms = [Tally(), Tally()]
        for k in range(2000):
            arms[k % 2] = arms[k % 2].plus(rng.random() < (0.8, 0.9)[k % 2])
            if k % 20 == 19 and log_evidence(*arms, 0.0) >= -math.log(ALPHA):
                found += 1
                break
    assert found >= 95


def test_evidence_is_the_least_product_of_two_mixture_ratios() -> None:
    """Against the definition: Jeffreys mixtures by quadrature, the least over a fine grid of rates."""
    control, treatment = tally(7, 20), tally(15, 25)

    def mixture(of: Tally) -> float:
        density = stats.beta(0.5, 0.5).pdf
        return float(integrate.quad(lambda p: density(p) * p**of.successes * (1 - p) ** of.failures, 0, 1, limit=200)[0])

    for delta in (-0.3, 0.0, 0.25, 0.6):
        p = np.linspace(max(0, -delta), min(1, 1 - delta), 100_001)[1:-1]
        likelihood = p**7 * (1 - p) ** 13 * (p + delta) ** 15 * (1 - p - delta) ** 10
        expected = math.log(mixture(control) * mixture(treatment) / likelihood.max())
        assert log_evidence(control, treatment, delta) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("control", "treatment"),
    [((7, 20), (15, 25)), ((0, 5), (0, 9)), ((5, 5), (9, 9)), ((0, 0), (3, 4)), ((0, 50), (50, 50))],
)
def test_the_interval_is_where_the_evidence_is_too_little(control: tuple[int, int], treatment: tuple[int, int]) -> None:
    first, second = tally(*control), tally(*treatment)
    found = difference(first, second, level=0.95)
    enough = -math.log(0.05)
    assert -1 <= found.low <= found.value <= found.high <= 1
    for bound, outside in ((found.low, -1), (found.high, 1)):
        if abs(bound) < 1:
            assert log_evidence(first, second, bound) == pytest.approx(enough, abs=1e-6)
            assert log_evidence(first, second, (bound + outside) / 2) > enough
        else:
            assert log_evidence(first, second, bound) < enough


def test_more_outcomes_make_it_narrower() -> None:
    widths = [difference(tally(n // 2, n), tally(n // 2, n), level=0.95) for n in (10, 100, 1000, 10_000)]
    assert [w.high - w.low for w in widths] == sorted((w.high - w.low for w in widths), reverse=True)


@pytest.mark.parametrize("p", [0.5, 0.4])
def test_a_rate_of_at_most_half_is_seldom_called_more(p: float) -> None:
    rng, runs, errors = random.Random(3), 400, 0
    for _ in range(runs):
        seen = Tally()
        for _ in range(300):
            seen = seen.plus(rng.random() < p)
            if surely_above_half(seen, alpha=ALPHA):
                errors += 1
                break
    assert errors <= allowed(runs, ALPHA)


def test_one_sided_is_never_said_of_the_other_side() -> None:
    assert surely_above(tally(0, 1000), tally(100, 1000), 0.05, alpha=0.01)
    assert not surely_above(tally(100, 1000), tally(0, 1000), 0.0, alpha=0.5)
    assert not surely_above(tally(0, 1000), tally(40, 1000), 0.05, alpha=0.5)
    assert surely_above_half(tally(12, 12), alpha=0.01)
    assert not surely_above_half(tally(0, 1000), alpha=0.5)
