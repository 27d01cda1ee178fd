"""The curve of latency against batch: between its points, after corrections, and the batch that it names."""

from __future__ import annotations

import itertools
import random

import pytest

from hasten.serve.curve import Curve


def affine(start: float, each: float, *, up_to: int = 64) -> Curve:
    sizes = [2**k for k in range(up_to.bit_length())]
    return Curve({size: start + each * size for size in sizes})


def test_between_two_known_sizes_lies_a_straight_line_and_beyond_them_the_same_rate() -> None:
    curve = Curve({1: 0.010, 4: 0.016, 8: 0.032})
    assert curve.seconds(4) == pytest.approx(0.016)
    assert curve.seconds(2) == pytest.approx(0.012)
    assert curve.seconds(16) == pytest.approx(0.064)


def test_more_samples_never_take_less_time_whatever_was_measured() -> None:
    rng = random.Random(1)
    curve = Curve({2**k: rng.uniform(0.001, 0.1) for k in range(7)})
    for _ in range(200):
        curve.observe(rng.randint(1, 64), rng.uniform(0.001, 0.1))
        times = [curve.seconds(size) for size in range(1, 100)]
        assert all(less <= more * (1 + 1e-12) for less, more in itertools.pairwise(times))


@pytest.mark.parametrize("objective", [0.01, 0.02, 0.05, 0.2])
def test_two_calls_of_the_best_batch_fit_into_the_objective_and_no_larger_one_is_much_faster(objective: float) -> None:
    curve = affine(0.004, 0.0005)
    best = curve.best_batch(objective)
    fitting = [b for b in range(1, 65) if 2 * curve.seconds(b) <= objective]
    assert best == 1 or best in fitting
    assert best / curve.seconds(best) >= 0.98 * max(b / curve.seconds(b) for b in fitting or [1])


def test_where_batches_gain_nothing_the_best_batch_is_one() -> None:
    assert Curve({2**k: 0.003 * 2**k for k in range(7)}).best_batch(1.0) == 1


def test_what_passes_between_calls_makes_larger_ones_pay_where_the_program_itself_gains_nothing() -> None:
    each, objective = 0.001, 0.05
    for pause in (0.0001, 0.0003, 0.001):
        curve = Curve({2**k: each * 2**k for k in range(7)})
        best = curve.best_batch(objective, pause=pause)
        assert best > 1
        assert 2 * curve.seconds(best) <= objective
        assert best / (curve.seconds(best) + pause) >= 0.98 * 25 / (curve.seconds(25) + pause)  # of 26 samples, two calls do not fit


def test_an_objective_that_two_calls_do_not_fit_leaves_single_calls() -> None:
    assert affine(0.004, 0.0005).best_batch(0.005) == 1


def test_calls_teach_the_curve_what_they_take() -> None:
    curve, truth = affine(0.004, 0.0005), affine(0.001, 0.002)
    for _ in range(100):
        for size in (1, 2, 4, 8, 16, 32, 64):
            curve.observe(size, truth.seconds(size))
    for size in (1, 3, 16, 64):
        assert curve.seconds(size) == pytest.approx(truth.seconds(size), rel=0.15)


def test_a_load_that_ends_is_forgotten_for_sizes_that_were_avoided_meanwhile() -> None:
    """Sizes that a load made too slow are not called any more; what the others learn must bring them back."""

    def rate(size: int) -> float:
        return size / (0.004 + 0.0005 * size)

    curve = affine(0.004, 0.0005)
    before = curve.best_batch(0.05)
    for _ in range(100):
        size = curve.best_batch(0.05)
        curve.observe(size, 3 * (0.004 + 0.0005 * size))
    assert rate(curve.best_batch(0.05)) < 0.8 * rate(before)
    for _ in range(200):
        size = curve.best_batch(0.05)
        curve.observe(size, 0.004 + 0.0005 * size)
    assert rate(curve.best_batch(0.05)) > 0.95 * rate(before)


def test_one_stall_of_the_machine_moves_the_curve_by_little() -> None:
    curve = affine(0.004, 0.0005)
    curve.observe(8, 10.0)
    assert curve.seconds(8) < 1.5 * (0.004 + 0.0005 * 8)


def test_calls_that_scatter_are_expected_with_a_margin_that_nineteen_of_twenty_keep() -> None:
    rng, curve = random.Random(2), affine(0.004, 0.0005)
    missed = 0
    for k in range(2000):
        took = (0.004 + 0.0005 * 8) * rng.lognormvariate(0, 0.3)
        missed += k >= 200 and took > curve.cautious(8)
        curve.observe(8, took)
    assert missed / 1800 < 0.10


def test_short_calls_that_are_held_up_do_not_speak_against_long_ones() -> None:
    """Another thread holds one call in five up by 4 ms, whatever its size: calls of 16 ms would still fit twice into 50 ms."""
    rng, curve = random.Random(5), Curve({2**k: 0.001 * 2**k for k in range(7)})
    for _ in range(300):
        curve.observe(1, 0.001 + 0.004 * (rng.random() < 0.2))
    assert curve.cautious(1) == pytest.approx(0.005, rel=0.1)
    assert curve.cautious(10) < 0.025
    assert curve.best_batch(0.05, pause=0.0003) > 5


def test_long_calls_that_scatter_do_not_speak_against_short_ones() -> None:
    rng, curve = random.Random(6), affine(0.004, 0.0005)
    for _ in range(300):
        curve.observe(64, curve.seconds(64) * rng.lognormvariate(0, 0.1))
    assert curve.cautious(1) < 1.3 * curve.seconds(1)
