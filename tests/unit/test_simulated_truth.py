"""Statements about speed are true as often as they say, on simulated machines whose truth is known.

A few hundred seeded races each, with bounds that chance keeps; `make bench-search-coverage` has the precise figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from scipy import stats

from hasten.core.intervals import binomial_quantile, effective_number, median_bounds, percentile_place, student_quantile
from hasten.core.measurement import Interval, Measurement
from hasten.core.trial import Trial
from hasten.measure.latency import Plan, Race, final_plan
from hasten.measure.quality import METRICS
from hasten.measure.statistics import ratio_interval
from hasten.search import racing
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop
from hasten.testing import SCENES, Noise, simulated_race

RUNS = 300
FINAL = {"5 blocks": final_plan(300.0), "3 blocks": final_plan(60.0)}
ENTRANTS = {"reference": 0.002, "twin": 0.002, "faster": 0.0016}


def simulated(plan: Plan, scene: str, entrants: dict[str, float] = ENTRANTS):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    return [simulated_race(entrants, plan, SCENES[scene], rng, twins={"twin": "reference"}) for _ in range(RUNS)]


@pytest.mark.parametrize("plan", FINAL)
@pytest.mark.parametrize("scene", SCENES)
def test_the_final_race_holds_the_ratio_the_twin_and_the_latency(scene: str, plan: str) -> None:
    ratios, twins, latencies = [], [], []
    for one in simulated(FINAL[plan], scene):
        blocks = np.array(one.race.block_of_round)
        rounds = {key: m.round_medians() for key, m in one.race.latency.items()}
        ratio, twin = (ratio_interval(rounds["reference"], rounds[key], blocks=blocks) for key in ("faster", "twin"))
        latency = one.race.latency["reference"].interval()
        ratios.append(ratio.low <= 1.25 <= ratio.high)
        twins.append(twin.low <= 1 <= twin.high)
        latencies.append(latency.low <= one.median_seconds["reference"] <= latency.high)
    assert min(np.mean(ratios), np.mean(twins), np.mean(latencies)) >= 0.91


@pytest.mark.parametrize("scene", SCENES)
def test_a_quick_race_speaks_for_its_own_processes(scene: str) -> None:
    held = []
    for one in simulated(Plan(), scene):
        latency = one.race.latency["reference"].interval()
        held.append(latency.low <= one.process_seconds["reference"][0] <= latency.high)
    assert np.mean(held) >= 0.92


def test_an_undisturbed_machine_gives_back_what_was_put_in() -> None:
    still = Noise(calls=0, slices=0, tail_share=0)
    one = simulated_race({"a": 0.004, "b": 0.05}, final_plan(300.0), still, np.random.default_rng(0))
    assert all(set(np.round(m.samples, 12)) == {{"a": 0.004, "b": 0.05}[key]} for key, m in one.race.latency.items())
    assert one.median_seconds == pytest.approx({"a": 0.004, "b": 0.05})


def test_luck_belongs_to_a_process_and_drift_to_everybody() -> None:
    lucky, drifting = Noise(calls=0, slices=0, tail_share=0, luck=0.05), Noise(calls=0, slices=0, tail_share=0, drift=0.3)
    race = simulated_race({"a": 0.002, "b": 0.002}, FINAL["5 blocks"], lucky, np.random.default_rng(1)).race
    by_block = race.latency["a"].round_medians().reshape(5, -1)
    assert np.ptp(by_block, axis=1) == pytest.approx(0)
    assert len(set(by_block[:, 0])) == 5
    race = simulated_race({"a": 0.002, "b": 0.002}, FINAL["5 blocks"], drifting, np.random.default_rng(1)).race
    a, b = (race.latency[key].round_medians() for key in "ab")
    assert a.max() / a.min() > 1.2
    assert np.median(np.abs(np.log(a / b))) < 0.05


# Percentiles ----------------------------------------------------------------------------------------------------------


def sliced(rng: np.random.Generator, rounds: int, calls: int, seconds: float) -> Measurement:
    samples = rng.lognormal(np.log(seconds), 0.1, rounds * calls)
    return Measurement(metric="latency", unit="s", samples=tuple(samples), groups=tuple(np.repeat(np.arange(rounds), calls)))


def test_no_percentile_is_shown_that_the_samples_do_not_carry() -> None:
    """Shown exactly where a race of so many moments sees something beyond the true percentile in 95 % of the cases."""
    rng = np.random.default_rng(4)
    for _ in range(1500):
        rounds, calls, q = int(rng.integers(1, 400)), int(rng.integers(1, 12)), float(rng.choice([50, 75, 90, 95, 99, 99.9]))
        measurement = sliced(rng, rounds, calls, float(rng.choice([0.0005, 0.002, 0.05])))
        sees_beyond = 1 - stats.binom.pmf(0, measurement.num_moments, 1 - q / 100)
        shown, bound = measurement.percentile(q), measurement.percentile_bound(q)
        assert (shown is not None) == (sees_beyond >= 0.95)
        assert (bound is not None) == (shown is not None)
        if shown is not None and bound is not None:
            assert shown <= bound <= max(measurement.samples)


def test_calls_of_one_slice_are_one_moment_and_slow_calls_are_moments_of_their_own() -> None:
    rng = np.random.default_rng(5)
    assert sliced(rng, 60, 10, 0.002).num_moments == pytest.approx(60, abs=8)
    assert sliced(rng, 30, 2, 0.1).num_moments == 60
    assert Measurement(metric="latency", unit="s", samples=(0.001,) * 7).num_moments == 7
    assert Measurement(metric="latency", unit="s", samples=()).percentile(50) is None


def test_a_bound_allows_for_slow_calls_that_come_together() -> None:
    rng = np.random.default_rng(6)
    apart = rng.random((80, 10)) < 0.04
    together = np.repeat(rng.permutation(np.arange(80) < round(apart.sum() / 10)), 10).reshape(80, 10)
    values = rng.normal(1, 0.01, (80, 10))

    def bound(slow: np.ndarray) -> float:
        groups = tuple(np.repeat(np.arange(80), 10).tolist())
        latency = Measurement(metric="latency", unit="s", samples=tuple((0.001 * (values + slow)).ravel()), groups=groups)
        found = latency.percentile_bound(95)
        assert found is not None
        return found

    assert bound(apart) < 0.0015 < bound(together)


@pytest.mark.parametrize("scene", ["quiet", "luck", "drifting", "all"])
def test_the_bound_of_a_95th_percentile_holds(scene: str) -> None:
    held = []
    for one in simulated(FINAL["5 blocks"], scene):
        bound = one.race.latency["reference"].percentile_bound(95)
        assert bound is not None
        held.append(bound >= np.percentile(one.calls("reference", 5000), 95))
    assert np.mean(held) >= 0.93


# Elimination ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", SCENES)
def test_elimination_keeps_its_error_rate_whatever_the_luck(scene: str) -> None:
    times = {"a": 1.1, "b": 1.04, "c": 1.0, "d": 1.01, "e": 1.5}
    rng, rules = np.random.default_rng(7), racing.Rules()
    wrong = lost = 0
    for _ in range(100):

        def block(keys: Sequence[str], number: int) -> Race:
            return simulated_race({key: 0.002 * times[key] for key in keys}, Plan(rounds=16), SCENES[scene], rng).race

        result, _ = racing.run([str(key) for key in rng.permutation(list(times))], block, rules)
        wrong += result.sure and times[result.winner] > 1 + rules.zone
        lost += all(times[key] > 1 + rules.zone for key in result.alive)
    assert wrong <= 9
    assert lost <= 9


# The arithmetic of intervals ------------------------------------------------------------------------------------------


def test_quantiles_are_scipys() -> None:
    for df in (*range(1, 30), 60):
        for probability in (0.5, 0.9, 0.975, 0.999):
            assert student_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-7, abs=1e-7)
    for n in (1, 2, 6, 59, 60, 299, 5000):
        for p in (0.5, 0.95, 0.99):
            assert all(binomial_quantile(n, p, x) == stats.binom.ppf(x, n, p) for x in (0.025, 0.05, 0.95, 0.975))


def test_bounds_of_a_median_say_what_few_values_carry() -> None:
    values = np.array([3.0, 1.0, 2.0])
    assert median_bounds(values, 0.95) == (1.0, 3.0, 0.75)
    assert median_bounds(np.random.default_rng(8).normal(size=40), 0.95)[2] == 0.95


def test_values_that_follow_one_another_count_for_fewer() -> None:
    noise = np.random.default_rng(9).normal(size=200)
    walk = np.convolve(noise, np.ones(20), mode="valid")
    assert effective_number(walk) < len(walk) / 4 < effective_number(noise)


def test_no_order_statistic_bounds_what_is_beyond_the_samples() -> None:
    assert percentile_place(58, 58, 95, 0.95) is None
    assert percentile_place(59, 59, 95, 0.95) == 58
    assert percentile_place(590, 59, 95, 0.95) == 589


@pytest.mark.parametrize("drop", [-0.5, 0.0, 0.4, 0.9, 1.5])
def test_the_chance_to_be_certified_is_how_often_that_happens(drop: float) -> None:
    select, certify, limit, deviation = 1500, 6000, 1.0, 20.0
    seen = Interval(value=drop, low=0.0, high=drop + stats.norm.ppf(0.95) * deviation / select**0.5, level=0.9, n=select)
    shop = SimpleNamespace(workload=SimpleNamespace(splits={"certify": range(certify)}))
    judge = Judge(cast(Workshop, shop), cast(Trial, None), METRICS["accuracy"], limit)
    rng = np.random.default_rng(5)
    truth = rng.normal(drop, deviation / select**0.5, 20_000)  # as likely before as anything else
    bounds = rng.normal(truth, deviation / certify**0.5) + stats.norm.ppf(0.95) * deviation / certify**0.5
    assert judge.chance(seen) == pytest.approx(float(np.mean(bounds <= limit)), abs=0.015)
    assert (judge.chance(seen) >= 0.5) == judge.is_likely(seen)
