"""Elimination keeps the simplest of the fastest, whatever the machine's noise does, and stops when that is sure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hasten.core.measurement import Measurement
from hasten.measure.latency import Race
from hasten.search import racing

RULES = racing.Rules(zone=0.02, error=0.05, luck=0.01)
ROUNDS = 12


class Track:
    """Programs with true times; every block has the luck of its processes, every round the machine's speed of the moment."""

    def __init__(self, seed: int, luck: float = 0.01, **times: float) -> None:
        self.rng, self.luck, self.times, self.runs = np.random.default_rng(seed), luck, times, 0

    def block(self, keys: Sequence[str], number: int) -> Race:
        speed = np.exp(0.2 * self.rng.normal(size=ROUNDS))
        latency = {}
        for key in keys:
            luck = np.exp(self.luck * self.rng.normal())
            samples = self.times[key] * luck * speed * np.exp(0.01 * self.rng.normal(size=ROUNDS))
            latency[key] = Measurement(metric="latency", unit="s", samples=tuple(samples), groups=tuple(range(ROUNDS)))
        self.runs += len(keys)
        return Race(latency=latency, block_of_round=(number,) * ROUNDS, others_busy=None)


def winner(seed: int, luck: float = 0.01, **times: float) -> str:
    return racing.run(list(times), Track(seed, luck, **times).block, RULES)[0].winner


def test_the_fastest_wins_where_it_is_clearly_the_fastest() -> None:
    assert {winner(seed, a=1.0, b=0.9, c=1.3) for seed in range(50)} == {"b"}


def test_of_equals_the_first_in_the_order_wins() -> None:
    wins = [winner(seed, simple=1.0, same=1.0, slow=2.0) for seed in range(200)]
    assert wins.count("simple") >= 190


@pytest.mark.parametrize("luck", [0.0, 0.01, 0.02])
def test_a_winner_that_is_sure_is_within_the_zone_as_often_as_stated(luck: float) -> None:
    times = {"a": 1.05, "b": 1.03, "c": 1.0, "d": 1.01, "e": 1.2}
    runs = [racing.run(list(times), Track(seed, luck, **times).block, RULES)[0] for seed in range(200)]
    assert sum(r.sure and times[r.winner] > 1.02 for r in runs) <= 200 * RULES.error
    assert all(times[r.winner] <= 1.05 for r in runs)


def test_a_leader_that_may_be_slower_than_another_is_not_sure_after_one_block() -> None:
    standing, _ = racing.run(["a", "b"], Track(0, a=1.0, b=1.0).block, RULES, may_go_on=lambda: False)
    assert not standing.sure


def test_what_cannot_win_is_not_timed_on() -> None:
    track = Track(0, a=1.0, b=1.015, **{f"slow{n}": 2.5 + n for n in range(8)})
    racing.run(list(track.times), track.block, RULES)
    assert track.runs <= 10 + 2 * (RULES.max_blocks - 1)


def test_what_a_bad_process_could_explain_is_looked_at_twice() -> None:
    track = Track(0, a=1.0, b=1.5, c=2.5)
    seen: list[tuple[str, ...]] = []

    def block(keys: Sequence[str], number: int) -> Race:
        seen.append(tuple(keys))
        return track.block(keys, number)

    racing.run(["a", "b", "c"], block, RULES)
    assert seen[:2] == [("a", "b", "c"), ("a", "b")]


def test_one_bad_process_does_not_drop_the_fastest() -> None:
    for seed in range(40):
        track = Track(seed, a=1.0, b=0.8, c=1.1)

        def block(keys: Sequence[str], number: int, track: Track = track, bad: int = seed % 3) -> Race:
            track.times["b"] = 1.4 if number == bad else 0.8
            return track.block(keys, number)

        assert racing.run(["a", "b", "c"], block, RULES)[0].winner == "b"


def test_a_crash_in_a_block_is_not_the_end() -> None:
    track = Track(0, a=0.5, b=1.0, c=1.01)

    def block(keys: Sequence[str], number: int) -> Race:
        return track.block([k for k in keys if k != "a"], number)

    assert racing.run(["a", "b", "c"], block, RULES)[0].winner == "b"


def test_it_stops_when_the_caller_has_no_more_time() -> None:
    standing, evidence = racing.run(["b", "a"], Track(0, a=1.0, b=1.018).block, RULES, may_go_on=lambda: False)
    assert len(evidence.blocks) == 1
    assert not standing.sure


def test_a_ratio_holds_the_truth_in_spite_of_the_luck_of_processes() -> None:
    held = 0
    for seed in range(300):
        evidence = racing.Evidence()
        evidence.add(Track(seed, 0.01, a=1.3, b=1.0).block(["a", "b"], 0))
        ratio = racing.ratio(evidence, "a", "b", RULES)
        held += ratio.low <= 1.3 <= ratio.high
    assert held >= 0.93 * 300
