"""Mixed precision chooses the cheapest parts to leave in float for a noise budget, by measured prices."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hasten.core.measurement import Interval
from hasten.core.seams import OperatorTime
from hasten.measure.sensitivity import Part, part_nodes
from hasten.search.mixed import chance, mixes, prices

PARTS = [Part(nodes=(f"conv{n}", f"add{n}"), noise=noise) for n, noise in enumerate([0.60, 0.25, 0.10, 0.04, 0.01])]
PRICE = np.array([0.02, 0.30, 0.05, 0.05, 0.05])


def test_the_noisiest_cheap_part_goes_first() -> None:
    half = next(m for m in mixes(PARTS, PRICE) if m.noise <= 0.5)
    assert half.skip == ("conv0", "add0")
    assert half.slower == pytest.approx(1.02)
    assert half.noise == pytest.approx(0.40)


@pytest.mark.parametrize("budget", [0.5, 0.3, 0.2, 0.1, 0.03])
def test_no_other_choice_within_the_budget_is_faster(budget: float) -> None:
    noise, best = np.array([p.noise for p in PARTS]), math.inf
    for chosen in itertools.product([False, True], repeat=len(PARTS)):
        if 0 < sum(chosen) < len(PARTS) and noise[list(chosen)].sum() <= budget:
            best = min(best, 1 + PRICE[~np.array(chosen)].sum())
    found = mixes(PARTS, PRICE, [budget])
    assert [m.slower for m in found] == [pytest.approx(best)] or (found == [] and best == math.inf)
    assert all(m.noise <= budget + 1e-9 for m in found)


def test_what_8_bits_make_slower_stays_in_float_even_without_need() -> None:
    found = mixes(PARTS, np.array([0.1, 0.1, -0.2, 0.1, 0.1]), [1.0])
    assert [m.skip for m in found] == [("conv2", "add2")]
    assert found[0].slower == pytest.approx(0.8)
    assert mixes(PARTS, PRICE, [1.0]) == []


def test_equal_choices_are_named_once() -> None:
    found = mixes(PARTS, PRICE, [0.41, 0.405, 0.4])
    assert len(found) == 1


def test_a_price_is_the_difference_of_the_times_that_operators_took() -> None:
    def op(name: str, microseconds: float, *nodes: str) -> OperatorTime:
        return OperatorTime(name=name, kind="Conv", seconds=microseconds * 1e-6, nodes=nodes)

    in_float = [op("a", 80, "conv0", "relu0"), op("b", 40, "conv1", "add1"), op("c", 6, "softmax")]
    in_int8 = [op("a", 20, "conv0", "relu0", "q0", "dq0"), op("b", 50, "conv1"), op("c", 6, "softmax"), op("reorder", 24)]
    assert prices(PARTS[:2], in_float, in_int8) == pytest.approx([0.6, -0.1])


def test_the_chance_follows_the_noise_that_is_left() -> None:
    seen = {1.0: Interval(value=2.0, low=1.6, high=2.4)}
    ladder = [chance(m, seen, limit=0.5) for m in mixes(PARTS, PRICE)]
    assert ladder == sorted(ladder)
    assert ladder[0] < 0.2 < 0.9 < ladder[-1]


def test_a_mix_that_lost_more_than_thought_lowers_the_next_ones_chance() -> None:
    whole, worse = Interval(value=2.0, low=1.6, high=2.4), Interval(value=1.9, low=1.5, high=2.3)
    tight = mixes(PARTS, PRICE, [0.1])[0]
    assert chance(tight, {1.0: whole, 0.2: worse}, 0.5) < chance(tight, {1.0: whole}, 0.5)


def test_parts_are_weighted_operators_with_what_follows_them() -> None:
    nodes = [("in", "Relu"), ("c1", "Conv"), ("r1", "Relu"), ("a1", "Add"), ("c2", "Conv"), ("p", "MaxPool"), ("fc", "Gemm")]
    assert part_nodes(nodes) == [("c1", "a1"), ("c2", "p"), ("fc",)]
    assert part_nodes(nodes, max_parts=2) == [("c1", "a1", "c2", "p"), ("fc",)]
    assert part_nodes([("", "Conv"), ("b", "Conv")]) == []
    assert part_nodes([("b", "Conv"), ("b", "Conv")]) == []
