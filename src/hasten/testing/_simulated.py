"""Races on a machine that does not exist: the true latencies are known, so that a statement about them can be checked.

What disturbs a race is simulated one cause at a time. Its size comes from what was measured on two virtual machines of two cores
(docs/decisions/0005 and 0006); `Noise` names each figure's source. A simulated race has the plan, the rounds, the turns and the result
type of a real one (`hasten.measure.latency.race`): what analyses the one cannot know the other.

Legend: E entrants, B blocks, R rounds a block, K timed calls a slice; a slowness of 1 is the undisturbed machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..core.measurement import MOMENT_SECONDS, Measurement
from ..measure.latency import Plan, Race, affordable_rounds
from ..measure.tasks import LEAD_IN_SECONDS

_TICK_SECONDS = 0.01  # how finely the machine's speed is followed
_START_SECONDS = 1.0  # for one process to start, load and warm up: nothing is timed meanwhile
_TURBO = 0.2  # log of the highest over the lowest clock step


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What disturbs a simulated machine. Standard deviations and sizes are of log latency: 0.02 is 2 %.

    calls: from one call to the next; slices: from one slice to the next (caches, placement): rounds of a quiet machine scatter by 0.5 to
    2 %. tail_share, tail: share of the calls that something interrupts, and how long for (Pareto of index 1.5, in calls).
    luck: from one process to the next, for its whole life. Six starts of one session gave 0.81 to 0.86 ms with one at 0.66 (0005).
    drift: of the whole machine, per square root of a second, reflected at 1x and 2x: "changes by up to two times within seconds" (0005).
    clock_steps: changes of the clock per second, between 1x and 1.2x.
    bursts: neighbours that come, per second, for 0.1 to 5 s (log-uniform), and cost an entrant up to as much as its own run again:
    one core of two. uneven: how differently they hit the entrants (0: alike, 1: some not at all), by program and by burst.
    outliers: share of the moments (20 ms) in which something else woke up: 1.5 to 4 times as slow (0006).
    """

    calls: float = 0.02
    slices: float = 0.007
    tail_share: float = 0.02
    tail: float = 0.3
    luck: float = 0.0
    drift: float = 0.0
    clock_steps: float = 0.0
    bursts: float = 0.0
    uneven: float = 0.5
    outliers: float = 0.0


SCENES: Mapping[str, Noise] = {
    "quiet": Noise(),
    "luck": Noise(luck=0.05),
    "drifting": Noise(drift=0.3, clock_steps=0.5),
    "loaded": Noise(bursts=0.15, outliers=0.03),
    "all": Noise(luck=0.03, drift=0.3, clock_steps=0.5, bursts=0.15, outliers=0.03),
}
"""The machines that statements are checked on."""


@dataclass(frozen=True, kw_only=True)
class SimulatedRace:
    """A race, and what was true while it ran.

    median_seconds: by key, what a call in a typical process takes on the machine as it was meanwhile (median over the timed parts of the
    race); process_seconds: the same in each of the B processes that did run it, [B]; calls(key, n): what n calls would have taken,
    spread evenly over those parts and processes, [n].
    """

    race: Race
    median_seconds: Mapping[str, float]
    process_seconds: Mapping[str, np.ndarray]
    calls: Callable[[str, int], np.ndarray]


def simulated_race(
    seconds: Mapping[str, float], plan: Plan, noise: Noise, rng: np.random.Generator, *, twins: Mapping[str, str] | None = None
) -> SimulatedRace:
    """Times entrants whose true latencies on the undisturbed machine are `seconds`, by key.

    twins: which entrants run the same program as another one (load hits both alike).
    """
    keys, base = list(seconds), np.array(list(seconds.values()))
    least = np.where(base > plan.slice_seconds, min(2, plan.min_runs), plan.min_runs)
    calls = np.maximum(least, np.ceil(plan.slice_seconds / base)).astype(int)
    rounds = affordable_rounds(plan, list(base))
    began, ended = _slices(base, calls, plan.blocks, rounds, rng)
    machine = _Machine(began, ended, [(twins or {}).get(key, key) for key in keys], noise, rng)
    luck = np.exp(noise.luck * rng.normal(size=(plan.blocks, len(keys))))
    block_of_round = tuple(b for b in range(plan.blocks) for _ in range(rounds))
    latency, medians, processes = {}, {}, {}
    for e, key in enumerate(keys):
        times = began[:, :, e, None] + LEAD_IN_SECONDS + base[e] * np.arange(calls[e])  # [B, R, K]
        slowness = machine.slowness(e, times) * luck[:, e, None, None] * _jitter(times.shape, base[e], noise, rng)
        medians[key] = float(base[e] * machine.median_slowness(e))
        processes[key] = medians[key] * luck[:, e]
        latency[key] = _measurement((base[e] * slowness).reshape(plan.blocks * rounds, -1), block_of_round)
    race = Race(latency=latency, block_of_round=block_of_round, others_busy=None)

    def more_calls(key: str, n: int) -> np.ndarray:
        e = keys.index(key)
        slowness, blocks = machine.all_along(e, n)
        calls: np.ndarray = base[e] * slowness * luck[blocks, e] * _jitter((n, 1, 1), base[e], noise, rng).ravel()
        return calls

    return SimulatedRace(race=race, median_seconds=medians, process_seconds=processes, calls=more_calls)


def _slices(base: np.ndarray, calls: np.ndarray, blocks: int, rounds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """When each slice begins and ends, [B, R, E] both: entrants in a new random order each round, new processes before each block."""
    lasts = np.maximum(LEAD_IN_SECONDS, base) + base * calls
    order = rng.permuted(np.tile(np.arange(len(base)), (blocks, rounds, 1)), axis=2)
    ends_in_order = np.cumsum(lasts[order].reshape(blocks, -1), axis=1)  # [B, R E], from the block's first slice
    block_began = (ends_in_order[0, -1] + _START_SECONDS * len(base)) * np.arange(blocks)
    ends = (ends_in_order + block_began[:, None]).reshape(order.shape)
    ended = np.take_along_axis(ends, np.argsort(order, axis=2), axis=2)
    return ended - lasts, ended


class _Machine:
    """How slow the machine is at each moment, for each entrant: 1 where nothing disturbs it."""

    def __init__(self, began: np.ndarray, ended: np.ndarray, programs: list[str], noise: Noise, rng: np.random.Generator) -> None:
        num_ticks = math.ceil(ended.max() / _TICK_SECONDS) + 1
        walk = rng.uniform(0, math.log(2)) + np.cumsum(noise.drift * math.sqrt(_TICK_SECONDS) * rng.normal(size=num_ticks))
        common = np.abs((walk + math.log(2)) % (2 * math.log(2)) - math.log(2)) if noise.drift else np.zeros(num_ticks)
        steps = np.cumsum(rng.random(num_ticks) < noise.clock_steps * _TICK_SECONDS)
        common += rng.uniform(0, _TURBO, steps[-1] + 1)[steps]
        self._log = common + np.log1p(_load(num_ticks, programs, noise, rng))  # [E, ticks]
        ticks = _TICK_SECONDS * np.arange(num_ticks)
        self._first, last = began.min((1, 2)), ended.max((1, 2))  # [B]
        self._timed = np.any([(a <= ticks) & (ticks <= b) for a, b in zip(self._first, last, strict=True)], axis=0)

    def slowness(self, entrant: int, times: np.ndarray) -> np.ndarray:
        """At `times`, in seconds from the start of the race."""
        slow: np.ndarray = np.exp(self._log[entrant, (times / _TICK_SECONDS).astype(int).clip(max=self._log.shape[1] - 1)])
        return slow

    def median_slowness(self, entrant: int) -> float:
        """Over the time in which anything was timed: the time between blocks is left out."""
        return math.exp(float(np.median(self._log[entrant, self._timed])))

    def all_along(self, entrant: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The slowness at n ticks spread evenly over the timed time, and the block of each: [n] both."""
        timed = np.flatnonzero(self._timed)
        ticks = timed[np.linspace(0, len(timed) - 1, n).astype(int)]
        blocks = np.searchsorted(self._first, ticks * _TICK_SECONDS, side="right") - 1
        return np.exp(self._log[entrant, ticks]), blocks.clip(min=0)


def _load(num_ticks: int, programs: list[str], noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """What neighbours add to an entrant's time, as a share of it, [E, ticks]."""
    load = np.zeros((len(programs), num_ticks))
    sensitive = {program: 1 - noise.uneven * rng.random() for program in dict.fromkeys(programs)}
    own = np.array([sensitive[program] for program in programs])
    for _ in range(rng.poisson(noise.bursts * num_ticks * _TICK_SECONDS)):
        start, strength = rng.integers(num_ticks), rng.uniform(0.2, 1)
        stop = start + math.ceil(0.1 * 50 ** rng.random() / _TICK_SECONDS)
        load[:, start:stop] += (strength * own * (1 - noise.uneven * rng.random(len(own))))[:, None]
    return load


def _jitter(shape: tuple[int, ...], seconds: float, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """The noise of single calls and slices, [B, R, K]: its median is 1. seconds: what a call takes."""
    slices = np.exp(noise.slices * rng.normal(size=(*shape[:2], 1)))
    tails = np.where(rng.random(shape) < noise.tail_share, noise.tail * rng.pareto(1.5, shape), 0)
    jitter: np.ndarray = slices * (np.exp(noise.calls * rng.normal(size=shape)) + tails)
    if noise.outliers:
        moments = max(1.0, seconds / MOMENT_SECONDS)  # that a call spans
        hit = rng.random(shape) < 1 - (1 - noise.outliers) ** moments
        slower = 1 + rng.uniform(0.5, 3, shape) / moments
        moment_of_call = (np.arange(shape[2]) * seconds / MOMENT_SECONDS).astype(int)
        first = np.searchsorted(moment_of_call, moment_of_call)  # calls of one moment share its fate
        jitter *= np.where(hit, slower, 1)[:, :, first]
    return jitter


def _measurement(rows: np.ndarray, block_of_round: tuple[int, ...]) -> Measurement:
    """Calls as a race hands them over. rows: seconds, [B R, K]."""
    return Measurement(
        metric="latency",
        unit="s",
        samples=tuple(rows.ravel().tolist()),
        groups=tuple(np.repeat(np.arange(len(rows)), rows.shape[1]).tolist()),
        method={"how": "simulated", "blocks": block_of_round[-1] + 1, "block_of_round": list(block_of_round)},
        where={"machine": "simulated"},
    )
