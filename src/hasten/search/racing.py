"""Who is fastest: successive elimination with an indifference zone, in blocks of fresh processes.

What is sought is not the fastest program but the *first in a fixed order* (the simplest) of those that are within `zone` of the
fastest: two programs that nobody can tell apart must not change places from one search to the next. All programs run the first block;
after each block those that surely cannot be the answer leave, so that most of the time is spent on those that still may be
(Even-Dar, Mannor & Mansour 2006, JMLR 7:1079, with an indifference zone).

Stated error: when it is sure, the chosen program is beyond the zone with probability at most `error`. The bounds are Student's, on the
median over blocks of the median log ratio, each at `error` divided by the number of programs and of looks (Bonferroni). How much the
processes of one program differ is learnt from all programs together; one block says nothing of it, so the variance starts from a prior
that counts as PRIOR_DF observations (a scaled inverse chi-squared: Gelman et al. 2013, Bayesian Data Analysis, 3.3). What simulated
machines make of the statement: `make bench-search-coverage`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from ..core.measurement import Interval
from ..measure.latency import Race

PRIOR_DF = 4
"""Observations that the expected luck counts as: one block alone can still drop what is far behind, and six blocks outweigh it."""


BAD_PROCESS = 2.0
"""Now and then a program is slow for a whole block, by up to 1.8 times: two threads whose cores are shared (measure/cores.py). So nobody
leaves after one block for being slower by less than this, and medians over blocks count."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """zone: programs closer than this share of their time are equals; luck: the standard deviation of log time between processes of
    one program that is expected before it is seen (A/A races of five blocks gave 0.5 to 1.5 %); max_blocks: when to stop without
    certainty."""

    zone: float = 0.02
    error: float = 0.05
    luck: float = 0.01
    max_blocks: int = 6


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Log ratio of a program's time to the leader's: estimate and one-sided bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """After a block. winner: the answer so far; sure: whether the rules are satisfied; alive: who must run on, in the fixed order."""

    winner: str
    sure: bool
    alive: tuple[str, ...]


@dataclass(kw_only=True)
class Evidence:
    """Times of programs by block: the medians of its rounds, [rounds] each. Programs of one block ran the same rounds in turn."""

    blocks: list[Mapping[str, np.ndarray]] = field(default_factory=list)

    def add(self, race: Race) -> None:
        """One block: a race of one set of processes."""
        self.blocks.append({key: m.round_medians() for key, m in race.latency.items()})

    def log_ratios(self, key: str, over: str) -> tuple[np.ndarray, np.ndarray]:
        """Of every block that both ran in: the median log ratio, and its variance from the rounds."""
        values, variances = [], []
        for block in self.blocks:
            if key in block and over in block:
                logs = np.log(block[key] / block[over])
                middle = float(np.median(logs))
                spread = 1.4826 * float(np.median(np.abs(logs - middle)))
                values.append(middle)
                variances.append(math.pi / 2 * spread**2 / len(logs))
        return np.array(values), np.array(variances)


def standing(evidence: Evidence, order: Sequence[str], rules: Rules) -> Standing:
    """What is known after the blocks so far. order: the programs, simplest first.

    Out is who is surely beyond the zone of the leader, in two blocks unless no bad process could explain it. In is who is surely within
    the zone of everybody who ran: the leader too must show that nobody is much faster than it. The answer is the first in the order
    that is in, once everybody before it is out.
    """
    running = [key for key in order if key in evidence.blocks[-1]]
    leader = min(running, key=lambda key: float(np.median(evidence.log_ratios(key, running[0])[0])))
    between, df = _between([evidence.log_ratios(key, leader)[0] for key in evidence.blocks[0] if key != leader], rules.luck)
    tail = float(stats.t.ppf(1 - rules.error / (len(order) * rules.max_blocks), df))

    def gap(key: str, other: str) -> Gap:
        values, variances = evidence.log_ratios(key, other)
        reach = 0.0 if key == other else tail * math.sqrt((between + float(variances.mean())) / len(values))
        middle = float(np.median(values))
        return Gap(value=middle, low=middle - reach, high=middle + reach)

    zone = math.log1p(rules.zone)
    gaps = {key: gap(key, leader) for key in running}
    once = [key for key in running if len(evidence.log_ratios(key, leader)[0]) == 1]
    doubtful = {key for key in once if zone < gaps[key].value < math.log(BAD_PROCESS)}
    alive = [key for key in running if gaps[key].low <= zone or key in doubtful]
    winner = next(key for key in alive if gaps[key].value <= zone)
    first = alive[0]
    if not doubtful and all(gap(first, other).high <= zone for other in alive):
        return Standing(winner=first, sure=True, alive=(first,))
    # Whoever comes after one that is surely an equal of all can no longer be the answer; the leader stays, to be compared with.
    known = next((n for n, key in enumerate(alive) if all(gap(key, other).high <= zone for other in alive)), len(alive) - 1)
    kept = [key for n, key in enumerate(alive) if n <= known or key == leader or key in doubtful]
    return Standing(winner=winner, sure=False, alive=tuple(kept))


def ratio(evidence: Evidence, slow: str, fast: str, rules: Rules, *, level: float = 0.95) -> Interval:
    """How many times faster one is than the other, over the blocks that both ran in, with the expected luck as in `standing`."""
    values, variances = evidence.log_ratios(slow, fast)
    between, df = _between([values], rules.luck)
    reach = float(stats.t.ppf(0.5 + level / 2, df)) * math.sqrt((between + float(variances.mean())) / len(values))
    middle = float(values.mean())
    return Interval(value=math.exp(middle), low=math.exp(middle - reach), high=math.exp(middle + reach), level=level, n=len(values))


def spread(evidence: Evidence, leader: str, rules: Rules) -> float:
    """Standard deviation of the log ratio of two programs in one block: the luck of two processes."""
    return math.sqrt(_between([evidence.log_ratios(key, leader)[0] for key in evidence.blocks[0] if key != leader], rules.luck)[0])


def gaps_to(winner: str, evidence: Evidence) -> dict[str, float]:
    """Log ratio of everybody's time to the winner's, over all blocks that both ran in: the first one at least."""
    return {key: float(evidence.log_ratios(key, winner)[0].mean()) for key in evidence.blocks[0]}


def run(
    order: Sequence[str], block: Callable[[Sequence[str], int], Race], rules: Rules, *, may_go_on: Callable[[], bool] = lambda: True
) -> tuple[Standing, Evidence]:
    """Race until it is sure, or the blocks or the caller's patience are used up.

    block: runs the named programs as block number n; who is missing from its result has crashed and is out.
    """
    evidence, alive = Evidence(), tuple(order)
    while True:
        evidence.add(block(alive, len(evidence.blocks)))
        now = standing(evidence, order, rules)
        if now.sure or len(evidence.blocks) >= rules.max_blocks or not may_go_on():
            return now, evidence
        alive = now.alive


def _between(values: Sequence[np.ndarray], luck: float) -> tuple[float, int]:
    """Variance of a block's log ratio, pooled over the programs' blocks and the prior (two processes' luck); and its degrees of freedom."""
    seen = sum(float(((v - v.mean()) ** 2).sum()) for v in values if len(v) > 1)
    df = PRIOR_DF + sum(len(v) - 1 for v in values if len(v) > 1)
    return (PRIOR_DF * 2 * luck**2 + seen) / df, df
