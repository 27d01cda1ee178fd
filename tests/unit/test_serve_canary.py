"""A canary that is no worse stays; one that is worse goes soon, for the right reason."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from scipy import stats

from hasten.serve.canary import ALPHA, Canary

Answer = Callable[[random.Random, bool], tuple[bool, float, bool]]  # failed, seconds, correct


def watch(answer: Answer, *, seed: int, requests: int = 1500, share: float = 0.2) -> str:
    """Why the canary was rolled back, or nothing, when requests come at 20 a second and every fifth answer is labelled."""
    rng, canary = random.Random(seed), Canary()
    for k in range(requests):
        mine = rng.random() < share
        failed, seconds, correct = answer(rng, mine)
        reason = canary.ended(canary=mine, failed=failed)
        if not failed:
            reason = reason or canary.took(canary=mine, seconds=seconds, now=k / 20)
            if rng.random() < 0.2:
                reason = reason or canary.labelled(canary=mine, correct=correct)
        if reason:
            return reason
    return ""


def same(rng: random.Random, mine: bool) -> tuple[bool, float, bool]:
    """Both fail, take and know alike, with a long tail of latency."""
    return rng.random() < 0.02, rng.lognormvariate(-4, 0.7), rng.random() < 0.9


def test_one_that_is_no_worse_is_rolled_back_at_most_as_often_as_promised() -> None:
    runs = 150
    errors = sum(bool(watch(same, seed=seed)) for seed in range(runs))
    assert errors <= stats.binom.isf(1e-4, runs, ALPHA)


@pytest.mark.parametrize(
    ("cause", "answer"),
    [
        ("failures", lambda rng, mine: (rng.random() < (0.2 if mine else 0.01), 0.02, True)),
        ("latency", lambda rng, mine: (False, rng.lognormvariate(-4, 0.3) * (1.6 if mine else 1), True)),
        ("quality", lambda rng, mine: (False, 0.02, rng.random() < (0.5 if mine else 0.9))),
    ],
)
def test_one_that_is_worse_is_rolled_back_for_that(cause: str, answer: Answer) -> None:
    reasons = [watch(answer, seed=seed, requests=4000) for seed in range(20)]
    assert {reason.partition(":")[0] for reason in reasons} == {cause}


def test_one_that_is_better_in_everything_stays() -> None:
    def better(rng: random.Random, mine: bool) -> tuple[bool, float, bool]:
        return rng.random() < (0.0 if mine else 0.2), 0.001 if mine else 0.1, rng.random() < (1.0 if mine else 0.5)

    assert not any(watch(better, seed=seed) for seed in range(20))


def test_a_stall_of_the_machine_is_one_pair() -> None:
    """A thousand slow answers of the canary within a moment are no evidence: what slowed one slowed all."""
    canary = Canary()
    for k in range(1000):
        canary.took(canary=False, seconds=0.01, now=k / 1e4)
        assert not canary.took(canary=True, seconds=10.0, now=k / 1e4)
    assert canary.slower.n == 1


def test_the_reason_is_given_once() -> None:
    canary = Canary()
    for _ in range(100):
        canary.ended(canary=False, failed=False)
    reasons = [canary.ended(canary=True, failed=True) for _ in range(20)]
    assert [reason for reason in reasons if reason] == [canary.rolled_back]
    assert canary.rolled_back.startswith("failures: 100.00% of its requests, 0.00% of the others'")
