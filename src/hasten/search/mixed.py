"""Mixed precision priced in measured milliseconds: which parts of a graph stay in float, for how much noise, at what cost in time.

Every part has a price (how much longer it takes in float than in 8 bits in the runtime that will run it, from the operators' measured
times) and a noise (what quantising it alone does to the outputs: measure/sensitivity.py). For a few noise budgets the set of parts to
quantise is an integer programme, solved by HiGHS: the most time saved within the budget. Prices and noises are taken as additive, which is
only about right: what comes out is judged as a whole, like every other program, and where it is wrong the next smaller budget follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from ..core.measurement import Interval
from ..core.seams import OperatorTime
from ..measure.sensitivity import Part
from .forecast import probability_within

BUDGETS = (1.0, 0.5, 0.25, 0.1, 0.03)
"""Shares of the noise of the whole graph in 8 bits. At 1.0 only parts stay in float that are no faster in 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A choice. skip: nodes that stay in float, num_parts: of so many parts; noise: share of the whole graph's noise that is left; slower:
    its time over that of the graph that is in 8 bits as a whole (below 1 where 8 bits did harm)."""

    skip: tuple[str, ...]
    num_parts: int
    noise: float
    slower: float


def prices(parts: Sequence[Part], in_float: Sequence[OperatorTime], in_int8: Sequence[OperatorTime]) -> np.ndarray:
    """How much more of the 8-bit program's time each part would take in float: [parts], shares; negative where 8 bits are slower.

    An operator that computes nodes of several parts is divided evenly among those.
    """
    total = sum(o.seconds for o in in_int8)
    counted = {node for part in parts for node in part.nodes}
    slow, fast = _by_node(in_float, counted), _by_node(in_int8, counted)
    return np.array([sum(slow.get(n, 0.0) - fast.get(n, 0.0) for n in part.nodes) / total for part in parts])


def mixes(parts: Sequence[Part], price: np.ndarray, budgets: Sequence[float] = BUDGETS) -> list[Mix]:
    """The best choice for each noise budget, without repetitions; those that leave nothing in float, or everything, are left out."""
    noise = np.array([p.noise for p in parts])
    share = noise / max(float(noise.sum()), 1e-30)
    found: dict[tuple[str, ...], Mix] = {}
    for budget in budgets:
        quantised = _most_saved(price, share, budget)
        skip = tuple(node for part, is_in in zip(parts, quantised, strict=True) if not is_in for node in part.nodes)
        if skip and quantised.any():
            left, slower = float(share[quantised].sum()), 1.0 + float(price[~quantised].sum())
            found.setdefault(skip, Mix(skip=skip, num_parts=int((~quantised).sum()), noise=left, slower=max(0.05, slower)))
    return list(found.values())


def chance(mix: Mix, seen: Mapping[float, Interval], limit: float) -> float:
    """That a mix keeps the limit, if the loss goes with the noise. seen: noise shares that were judged -> their losses, in points."""
    near = min(seen, key=lambda share: abs(math.log(max(share, 1e-6) / max(mix.noise, 1e-6))))
    drop, scale = seen[near], mix.noise / max(near, 1e-6)
    deviation = (drop.high - drop.low) / 4 * max(0.5, scale)
    return probability_within(max(0.0, drop.value) * scale, deviation, limit)


def _most_saved(price: np.ndarray, share: np.ndarray, budget: float) -> np.ndarray:
    """Which parts to quantise: the most time saved within the noise budget (a knapsack), as booleans [parts]."""
    result = optimize.milp(
        c=-price, integrality=np.ones(len(price)), bounds=optimize.Bounds(0, 1),
        constraints=optimize.LinearConstraint(share[None, :], -np.inf, budget + 1e-9),
    )  # fmt: skip
    return np.asarray(np.round(result.x) > 0.5) & (price > 0)


def _by_node(operators: Sequence[OperatorTime], counted: set[str]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for operator in operators:
        nodes = [node for node in operator.nodes if node in counted]
        for node in nodes:
            seconds[node] = seconds.get(node, 0.0) + operator.seconds / len(nodes)
    return seconds
