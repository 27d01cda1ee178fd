"""Sequential judging keeps its error rates over all looks, and saves samples where the answer is plain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hasten.measure.quality import METRICS
from hasten.measure.sequential import Sequential, looks


@pytest.mark.parametrize("n", [1, 100, 128, 191, 192, 500, 1024, 6000, 10_000])
def test_looks_grow_and_end_with_everything(n: int) -> None:
    sizes = looks(n)
    assert sizes[-1] == n
    assert all(later >= 1.5 * earlier for earlier, later in itertools.pairwise(sizes))


@pytest.mark.parametrize("n", [100, 600, 6000])
def test_the_looks_spend_the_error_rate_once(n: int) -> None:
    test = Sequential(metric=METRICS["accuracy"], limit=0.5, num_samples=n)
    rows = np.ones(n)
    spent = [1 - test.look(rows, rows[:m]).drop_out.level for m in test.looks]
    assert sum(spent) == pytest.approx(0.05)


def run(test: Sequential, lost: float, won: float, rng: np.random.Generator) -> tuple[str, int]:
    kinds = rng.choice(3, size=test.num_samples, p=[lost, won, 1 - lost - won])
    reference, candidate = (kinds != 1).astype(float), (kinds != 0).astype(float)
    for m in test.looks:
        look = test.look(reference[:m], candidate[:m])
        if look.decision != "go on":
            return look.decision, m
    raise AssertionError("the last look must decide")


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.0), (0.04, 0.02), (0.1, 0.08)])
def test_a_candidate_at_the_limit_is_rarely_called_in_or_out(lost: float, won: float) -> None:
    test = Sequential(metric=METRICS["accuracy"], limit=2.0, num_samples=1500)
    rng = np.random.default_rng(0)
    ends = [run(test, lost, won, rng)[0] for _ in range(600)]
    assert ends.count("in") / 600 <= 0.06
    assert ends.count("out") / 600 <= 0.06


def test_plain_cases_are_decided_early_and_rightly() -> None:
    test = Sequential(metric=METRICS["accuracy"], limit=2.0, num_samples=6000)
    rng = np.random.default_rng(1)
    bad, good = ([run(test, lost, 0.001, rng) for _ in range(50)] for lost in (0.2, 0.002))
    assert all(end == "out" for end, _ in bad)
    assert np.mean([m for _, m in bad]) < 300
    assert all(end == "in" for end, _ in good)
    assert np.mean([m for _, m in good]) < 2000


def test_the_rates_are_set_apart() -> None:
    test = Sequential(metric=METRICS["accuracy"], limit=0.5, num_samples=1000, alpha_out=0.01, alpha_in=0.2)
    look = test.look(np.ones(1000), np.ones(1000))
    assert (look.drop_out.level, look.drop_in.level) == (pytest.approx(0.995), pytest.approx(0.9))
    assert look.num_samples == 1000


def test_too_few_samples_end_unsure() -> None:
    test = Sequential(metric=METRICS["accuracy"], limit=0.5, num_samples=60)
    assert test.look(np.ones(60), np.ones(60)).decision == "unsure"
