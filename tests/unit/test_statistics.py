"""Bounds hold what they say they hold: by published examples, by known limits and by simulation with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hasten.core.errors import DataError
from hasten.core.measurement import Interval
from hasten.measure import statistics
from hasten.measure.statistics import (
    aggregate_drop,
    error_increase,
    mean_drop,
    needed_samples,
    noninferiority,
    rate_drop,
    ratio_interval,
)


def pairs(lost: int, won: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    reference, candidate = np.ones(n), np.ones(n)
    candidate[:lost] = 0
    reference[lost : lost + won] = 0
    return reference, candidate


@pytest.mark.parametrize(
    ("lost", "won", "n", "low", "high"),
    [
        (12, 2, 50, 6.11, 34.47),  # Newcombe's worked example of Tango's interval
        (1, 7, 21, -51.73, -2.60),  # Bentur et al. 2009, in Fagerland, Lydersen & Laake 2017, chapter 8
    ],
)
def test_rate_drop_is_tangos_interval_in_published_examples(lost: int, won: int, n: int, low: float, high: float) -> None:
    drop = rate_drop(*pairs(lost, won, n), alpha=0.025)
    assert (drop.low, drop.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_tango_without_discordant_pairs_has_its_closed_form() -> None:
    z_squared = 1.959963984540054**2
    assert statistics._tango_bound(0, 0, 50, 0.025) == pytest.approx(z_squared / (50 + z_squared), rel=1e-9)


def test_rate_drop_without_wins_is_never_narrower_than_the_exact_binomial_bound() -> None:
    assert rate_drop(*pairs(0, 0, 300), alpha=0.05).high == pytest.approx(100 * (1 - 0.05 ** (1 / 300)))


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(0, 0, 1), (1, 0, 1), (0, 1, 1), (5, 0, 5), (0, 5, 5), (3, 2, 5), (1, 1, 6000), (60, 0, 6000)]
)
def test_rate_drop_holds_the_estimate_and_turns_round_with_the_sides(lost: int, won: int, n: int) -> None:
    reference, candidate = pairs(lost, won, n)
    drop, turned = rate_drop(reference, candidate, alpha=0.05), rate_drop(candidate, reference, alpha=0.05)
    assert drop.value == pytest.approx(100 * (lost - won) / n)
    assert -100 <= drop.low <= drop.value <= drop.high <= 100
    assert (drop.low, drop.high) == (pytest.approx(-turned.high), pytest.approx(-turned.low))
    assert (drop.level, drop.n) == (0.95, n)


@pytest.mark.parametrize("rows", [(np.ones(3), np.ones(4)), (np.ones(0), np.ones(0))])
def test_unpaired_or_empty_outcomes_are_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(DataError, match=r"outcomes: must be paired"):
        rate_drop(*rows, alpha=0.05)


@pytest.mark.parametrize(("n", "won", "limit"), [(600, 0.0, 0.5), (600, 0.01, 0.5), (2000, 0.002, 0.5), (6000, 0.0, 0.5), (500, 0.02, 1.0)])
def test_a_candidate_exactly_at_the_limit_rarely_passes(n: int, won: float, limit: float) -> None:
    lost = won + limit / 100
    draws, counts = np.unique(
        np.random.default_rng(7).multinomial(n, [lost, won, 1 - lost - won], size=20_000)[:, :2], axis=0, return_counts=True
    )
    passed = [statistics._rate_bound(int(b), int(c), n, 0.05) <= limit / 100 for b, c in draws]
    assert counts[np.array(passed)].sum() / counts.sum() <= 0.055


def test_the_two_bounds_of_a_rate_hold_the_drop() -> None:
    n, lost, won = 400, 0.05, 0.03
    draws, counts = np.unique(
        np.random.default_rng(8).multinomial(n, [lost, won, 1 - lost - won], size=10_000)[:, :2], axis=0, return_counts=True
    )
    held = [
        -statistics._rate_bound(int(c), int(b), n, 0.025) <= lost - won <= statistics._rate_bound(int(b), int(c), n, 0.025)
        for b, c in draws
    ]
    assert counts[np.array(held)].sum() / counts.sum() >= 0.94


@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("kind", ["normal", "exponential", "sparse"])
def test_mean_drop_holds_the_mean_of_skewed_differences(n: int, kind: str) -> None:
    rng = np.random.default_rng(9)
    size = (2000, n)
    rows = {
        "normal": rng.normal(1, 1, size),
        "exponential": rng.exponential(1, size),
        "sparse": 5 * rng.exponential(1, size) * (rng.random(size) < 0.2),
    }[kind]
    drops = [mean_drop(row, np.zeros(n), alpha=0.05) for row in rows]
    assert np.mean([d.high < 100 for d in drops]) <= 0.07
    assert np.mean([d.low > 100 for d in drops]) <= 0.07


@pytest.mark.parametrize("n", [300, 1000])
def test_mean_drop_holds_the_mean_of_lognormal_differences_from_300_samples_on(n: int) -> None:
    rng = np.random.default_rng(20)
    drops = [mean_drop(np.ones(n), 1 - rng.lognormal(-5, 1, n), alpha=0.05) for _ in range(1500)]
    assert np.mean([d.high < 100 * math.exp(-4.5) for d in drops]) <= 0.075
    assert np.mean([d.low > 100 * math.exp(-4.5) for d in drops]) <= 0.065


@pytest.mark.parametrize(("lost", "n"), [(0.005, 1000), (0.01, 300), (0.02, 300)])
def test_the_lower_bound_of_a_rate_holds_where_nothing_was_won(lost: float, n: int) -> None:
    counts = np.random.default_rng(21).binomial(n, lost, size=10_000)
    lowers = {b: -statistics._rate_bound(0, int(b), n, 0.05) for b in np.unique(counts)}
    assert np.mean([lowers[b] > lost for b in counts]) <= 0.053


@pytest.mark.parametrize("n", [200, 3000])
def test_the_acceleration_of_a_mean_is_a_sixth_of_its_skewness(n: int) -> None:
    from scipy import stats

    rows = np.random.default_rng(22).exponential(size=n)
    got = statistics._acceleration(lambda picked: float(rows[picked].mean()), np.random.default_rng(23).permutation(n))
    assert got == pytest.approx(stats.skew(rows) / (6 * math.sqrt(n)), rel=0.25)


def test_mean_drop_is_students_interval_for_symmetric_differences() -> None:
    from scipy import stats

    half = np.random.default_rng(1).normal(size=150)
    differences = np.concatenate([half, -half]) + 0.2
    want = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    got = mean_drop(differences, np.zeros(300), alpha=0.05)
    assert (got.low, got.high) == (pytest.approx(100 * want.low), pytest.approx(100 * want.high))


def test_equal_rows_leave_room_for_what_was_not_seen() -> None:
    drop = mean_drop(np.ones(50), np.ones(50), alpha=0.05)
    assert drop.value == 0
    assert drop.high == pytest.approx(100 * (1 - 0.05 ** (1 / 50)))


def test_a_candidate_that_is_not_finite_has_lost_everything() -> None:
    assert mean_drop(np.ones(5), np.array([1, 1, np.nan, 1, 1]), alpha=0.05).low == math.inf
    assert error_increase(np.ones(5), np.array([1, 1, np.inf, 1, 1]), alpha=0.05).low == math.inf


def test_error_increase_is_percent_of_the_references_own_error() -> None:
    reference = np.random.default_rng(2).exponential(size=500)
    drop = error_increase(reference, 1.1 * reference, alpha=0.05)
    assert drop.value == pytest.approx(10)
    assert drop.low == pytest.approx(10)
    assert drop.high == pytest.approx(10)
    assert error_increase(np.zeros(3), np.zeros(3), alpha=0.05).high == 0
    assert error_increase(np.zeros(3), np.ones(3), alpha=0.05).low == math.inf


def test_error_increase_holds_the_true_ratio() -> None:
    rng = np.random.default_rng(3)
    reference = rng.exponential(size=(1500, 200))
    candidate = reference * rng.uniform(0.6, 1.6, size=reference.shape)
    drops = [error_increase(r, c, alpha=0.05) for r, c in zip(reference, candidate, strict=True)]
    assert np.mean([d.low <= 10 <= d.high for d in drops]) >= 0.88


def test_aggregate_drop_is_seeded_and_close_to_the_interval_of_a_mean() -> None:
    rng = np.random.default_rng(4)
    reference = rng.normal(size=400)
    candidate = reference - rng.normal(0.1, 0.3, size=400)
    first, again = (aggregate_drop(lambda r: float(r.mean()), reference, candidate, alpha=0.05, seed=1) for _ in range(2))
    want = mean_drop(reference, candidate, alpha=0.05)
    assert first == again
    assert (first.value, first.low, first.high) == (
        pytest.approx(want.value),
        pytest.approx(want.low, abs=0.4),
        pytest.approx(want.high, abs=0.4),
    )


def test_aggregate_drop_of_equal_classes_is_not_certain() -> None:
    rows = np.random.default_rng(5).integers(0, 3, size=(40, 2))
    drop = aggregate_drop(lambda r: float((r[:, 0] == r[:, 1]).mean()), rows, rows.copy(), alpha=0.05, seed=0)
    assert drop.value == 0
    assert drop.high > 5


def test_the_verdict_says_why_in_one_sentence() -> None:
    def drop(value: float, low: float, high: float) -> Interval:
        return Interval(value=value, low=low, high=high, level=0.95, n=6000)

    passed = noninferiority(drop(0.12, -0.1, 0.31), 0.5, alpha=0.05, needed=9)
    assert passed.reason == "lost 0.12 points (upper bound of the loss 0.31 at 95 %), allowed 0.5: passed on 6,000 samples"
    assert passed.outcome == "passed"
    assert passed.needed_samples is None
    failed = noninferiority(drop(2, 1.5, 2.5), 0.5, alpha=0.05)
    assert failed.reason == "lost 2 points (lower bound of the loss 1.5 at 95 %), allowed 0.5: failed on 6,000 samples"
    undecided = noninferiority(drop(0.42, 0.2, 0.62), 0.5, alpha=0.05, needed=40_000)
    assert undecided.reason == (
        "lost 0.42 points (bounds of the loss 0.2 to 0.62 at 95 %), allowed 0.5: undecided on 6,000 samples, about 40,000 would decide it"
    )
    assert undecided.needed_samples == 40_000
    assert "won 0.03 points" in noninferiority(drop(-0.03, -0.15, 0.09), 0.5, alpha=0.05).reason
    assert noninferiority(drop(0.3, 0.1, 0.5), 0.5, alpha=0.05).outcome == "passed"
    assert noninferiority(drop(0.6, 0.5, 0.9), 0.5, alpha=0.05).outcome == "undecided"


def test_needed_samples_decide_with_the_planned_power() -> None:
    reference, candidate = pairs(6, 4, 1000)
    needed = needed_samples(reference, candidate, 0.5, 0.05)
    assert needed is not None
    draws = np.random.default_rng(6).multinomial(needed, [0.006, 0.004, 0.99], size=500)
    passed = [statistics._rate_bound(int(b), int(c), needed, 0.05) <= 0.005 for b, c, _ in draws]
    assert 0.74 <= np.mean(passed) <= 0.88


def test_needed_samples_without_any_disagreement_is_where_the_bound_falls_under_the_limit() -> None:
    needed = needed_samples(np.ones(50), np.ones(50), 0.5, 0.05)
    assert needed == 598
    assert rate_drop(np.ones(598), np.ones(598), alpha=0.05).high <= 0.5 < rate_drop(np.ones(597), np.ones(597), alpha=0.05).high


def test_no_number_of_samples_decides_a_drop_at_the_limit() -> None:
    assert needed_samples(*pairs(5, 0, 1000), 0.5, 0.05) is None
    assert needed_samples(np.ones(10), np.ones(10), 0.0, 0.05) is None


def test_needed_samples_is_capped() -> None:
    assert needed_samples(*pairs(50_001, 45_000, 1_000_000), 0.5, 0.05) == statistics.MAX_NEEDED_SAMPLES


def simulated_ratios(rng: np.random.Generator, blocks: int, rounds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = np.repeat(np.arange(blocks), rounds)
    luck = rng.normal(0, 0.03, size=(2, blocks))
    a, b = (np.exp(luck[side][names] + rng.normal(0, 0.02, size=len(names))) for side in (0, 1))
    return a, b, names


def test_a_ratio_of_equals_contains_one_although_processes_have_luck() -> None:
    rng = np.random.default_rng(11)
    runs = [simulated_ratios(rng, 5, 12) for _ in range(1500)]
    with_blocks = [ratio_interval(a, b, blocks=names) for a, b, names in runs]
    without = [ratio_interval(a, b) for a, b, _ in runs]
    assert np.mean([i.low <= 1 <= i.high for i in with_blocks]) >= 0.94
    assert all(i.n == 5 for i in with_blocks)
    assert np.mean([i.high / i.low for i in with_blocks]) > np.mean([i.high / i.low for i in without])


def test_a_ratio_is_not_fooled_by_slow_drifts() -> None:
    rng, held = np.random.default_rng(12), 0
    for _ in range(1500):
        noise = rng.normal(size=40)
        for i in range(1, 40):
            noise[i] += 0.5 * noise[i - 1]
        interval = ratio_interval(np.exp(0.02 * noise), np.ones(40))
        held += interval.low <= 1 <= interval.high
    assert held / 1500 >= 0.92


def test_a_ratio_of_independent_rounds_is_covered() -> None:
    logs = np.random.default_rng(13).normal(math.log(2), 0.05, size=(1500, 20))
    intervals = [ratio_interval(np.exp(row), np.ones(20)) for row in logs]
    assert np.mean([i.low <= 2 <= i.high for i in intervals]) >= 0.94


def test_a_ratio_leaves_out_what_is_no_number_and_is_honest_about_too_little() -> None:
    clean = ratio_interval(np.array([2.0, 2.2, 1.9]), np.ones(3))
    dirty = ratio_interval(np.array([2.0, np.nan, 2.2, 0.0, 1.9]), np.ones(5))
    assert clean == dirty
    assert clean.n == 3
    one = ratio_interval(np.array([2.0]), np.array([1.0]))
    assert (one.value, one.low, one.high, one.n) == (2.0, 0.0, math.inf, 1)
    assert math.isnan(ratio_interval(np.array([]), np.array([])).value)
    assert ratio_interval(np.ones(4), np.ones(4)).high == 1.0
