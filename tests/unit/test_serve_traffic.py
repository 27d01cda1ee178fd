"""Who is answered by which version: shares as asked for, sticky keys that stay, and options that are checked."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from scipy import stats

from hasten.core.errors import JobError
from hasten.serve.traffic import Traffic, choose, read_traffic

KEYS = [f"user-{k}" for k in range(20_000)]
WEIGHTS = {"1": 90.0, "2": 10.0}


@pytest.mark.parametrize("weights", [WEIGHTS, {"1": 1.0, "2": 1.0, "3": 2.0}, {"7": 0.001, "8": 0.001}])
@pytest.mark.parametrize("sticky", [True, False])
def test_shares_are_the_weights(weights: dict[str, float], sticky: bool) -> None:
    counts = Counter(choose(weights, key if sticky else None) for key in KEYS)
    total = sum(weights.values())
    expected = [len(KEYS) * weight / total for weight in weights.values()]
    assert stats.chisquare([counts[version] for version in weights], expected).pvalue > 1e-6


def test_a_key_always_gets_the_same_version_on_every_machine() -> None:
    assert [choose(WEIGHTS, key) for key in KEYS] == [choose(dict(reversed(WEIGHTS.items())), key) for key in KEYS]
    assert "".join(choose({"1": 1.0, "2": 1.0}, f"user-{k}") for k in range(12)) == GOLDEN


GOLDEN = "212122121212"


def test_a_version_that_grows_takes_keys_and_moves_no_others() -> None:
    before = {key: choose({"1": 60.0, "2": 30.0, "3": 10.0}, key) for key in KEYS}
    after = {key: choose({"1": 60.0, "2": 30.0, "3": 40.0}, key) for key in KEYS}
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {"3"}
    assert len(moved) == pytest.approx(len(KEYS) * (40 / 130 - 10 / 100), rel=0.1)


def test_one_that_goes_leaves_the_others_keys_where_they_are() -> None:
    for key in KEYS[:2000]:
        before = choose({"1": 60.0, "2": 30.0, "3": 10.0}, key)
        assert before == "3" or choose({"1": 60.0, "2": 30.0}, key) == before


def test_related_keys_are_spread_independently() -> None:
    """Whether user-k and user-(k+1) get the same version is chance."""
    chosen = [choose({"1": 1.0, "2": 1.0}, key) for key in KEYS]
    same = sum(a == b for a, b in itertools.pairwise(chosen))
    assert abs(same - len(KEYS) / 2) < 5 * (len(KEYS) / 4) ** 0.5


@pytest.mark.parametrize(
    ("traffic", "live", "canary", "weights"),
    [
        (Traffic(), ["1", "2"], True, {"2": 1.0}),
        (Traffic(canary="3", canary_share=0.05), ["1", "2", "3"], True, {"2": 0.95, "3": 0.05}),
        (Traffic(canary="3", canary_share=0.05), ["1", "2", "3"], False, {"2": 1.0}),
        (Traffic(split={"1": 3, "2": 1}, canary="3", canary_share=0.2), ["1", "2", "3"], True, {"1": 0.6, "2": 0.2, "3": 0.2}),
        (Traffic(split={"1": 3, "2": 1}), ["2"], True, {"2": 1}),
        (Traffic(split={"1": 3, "2": 1}), ["3"], True, {"3": 1.0}),
        (Traffic(shadow="2"), ["1", "2"], True, {"1": 1.0}),
        (Traffic(shadow="2"), ["2"], True, {}),
    ],
)
def test_weights_follow_what_is_there(traffic: Traffic, live: list[str], canary: bool, weights: dict[str, float]) -> None:
    assert traffic.weights(live, canary=canary) == pytest.approx(weights)


def test_options_are_read() -> None:
    read = read_traffic(split=["a@1=90,a@2=10", "b@3=1"], canary=["a@3=5"], shadow=["b@4"])
    assert read == {
        "a": Traffic(split={"1": 90, "2": 10}, canary="3", canary_share=0.05),
        "b": Traffic(split={"3": 1}, shadow="4"),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": ["a@1"]}, "--split: must be written like M@1=90,M@2=10, but got 'a@1'."),
        ({"split": ["a@1=0"]}, "--split: must have numbers above 0, but got 'a@1=0'."),
        ({"split": ["a@1=1.2.3"]}, "--split: must have numbers above 0"),
        ({"split": ["a@1=1", "a@1=2"]}, "--split: must name a version once, but got 'a@1'."),
        ({"canary": ["a@1=100"]}, "--canary: must be a percentage below 100"),
        ({"canary": ["a@1=5", "a@2=5"]}, "--canary: must be one version a model"),
        ({"split": ["a@1=5"], "canary": ["a@1=5"]}, "--canary: must be one version a model"),
        ({"shadow": ["a@1=5"]}, "--shadow: must be written like M@2"),
        ({"split": ["a@1=5"], "shadow": ["a@1"]}, "--shadow: must be one version a model"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as caught:
        read_traffic(**options)
    assert str(caught.value).startswith(message)
