"""Timing that can be trusted: interleaved rounds, fresh processes, detected warm-up, and the machine's own noise.

A race runs its entrants in turn (A B C, B C A, ...), each in a process of its own with its own threads. Rounds of one
set of processes make a block; new blocks start new processes, because where a process happens to lie in memory changes
its speed for its whole life. What is compared are the medians of one round, so a slow minute hits all entrants alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.machine import load_average
from ..core.measurement import Measurement
from ..core.seams import Runtime, Target
from . import cores, energy, tasks
from .worker import Worker

Progress = Callable[[float], None]
"""Told the share that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A program that takes part. tensors: .npy files [N, ...] by input name; batch_size: samples in each timed call."""

    key: str
    runtime: Runtime
    folder: Path
    target: Target
    tensors: Mapping[str, Path]
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long a race is.

    rounds: per block; slice_seconds: of timed runs per entrant and round, at least min_runs. Many short slices rather than
    few long ones: a shared machine changes its speed within seconds, and what runs close together meets the same speed.
    block_seconds: slow programs get fewer rounds (at least 6), so that a block takes about so long.
    """

    blocks: int = 1
    rounds: int = 16
    slice_seconds: float = 0.02
    block_seconds: float = 12.0
    min_runs: int = 3
    warm_up_seconds: float = 2.0
    seed: int = 0


_PATIENCE_SECONDS = 2.0
"""How long a block waits for cores that are shared just now; once a race in vain is enough."""


def final_plan(budget_seconds: float) -> Plan:
    """Five sets of fresh processes, three where the budget is short; 60 rounds either way, which own a 95th percentile
    (Measurement.percentile). Of the budget and not of what is left: a resumed search must meet the same plan."""
    blocks = 5 if budget_seconds >= 90 else 3
    return Plan(blocks=blocks, rounds=60 // blocks, block_seconds=8.0, seed=1)


@dataclass(frozen=True, kw_only=True)
class Race:
    """What a race measured. block_of_round: which processes ran each round; others_busy: the share of the machine's
    cores that other processes took meanwhile (0 to 1), or None where the system does not tell; energy: joules of a call,
    of each entrant or of none; slowdown: the worst of the blocks' `cores.slowdown`, 1 where every thread had a core of its own."""

    latency: Mapping[str, Measurement]
    block_of_round: tuple[int, ...]
    others_busy: float | None
    slowdown: float = 1.0
    energy: Mapping[str, Measurement] = field(default_factory=dict)

    def of(self, key: str) -> tuple[Measurement, ...]:
        """What is known of one entrant: its latency, and its energy where there is one."""
        return tuple(of[key] for of in (self.latency, self.energy) if key in of)

    def to_json(self) -> dict[str, Any]:
        return {
            "latency": {key: m.to_json() for key, m in self.latency.items()},
            "block_of_round": list(self.block_of_round),
            "others_busy": self.others_busy,
            "slowdown": self.slowdown,
            "energy": {key: m.to_json() for key, m in self.energy.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Race:
        return cls(
            latency={key: Measurement.from_json(m) for key, m in value["latency"].items()},
            block_of_round=tuple(value["block_of_round"]),
            others_busy=value["others_busy"],
            slowdown=value.get("slowdown", 1.0),
            energy={key: Measurement.from_json(m) for key, m in value.get("energy", {}).items()},
        )


def race(
    entrants: Sequence[Entrant], plan: Plan, *, where: Mapping[str, Any], progress: Progress | None = None,
    meter: energy.Meter | None = None,
) -> Race:  # fmt: skip
    """Time the entrants against each other, and read `meter` around each slice. Raises WorkerError when one of them crashes."""
    if meter is not None:
        plan = replace(plan, slice_seconds=max(plan.slice_seconds, meter.least_seconds))
    joules: dict[str, list[float]] = {e.key: [] for e in entrants}
    wall: dict[str, list[list[float]]] = {e.key: [] for e in entrants}
    cpu: dict[str, list[list[float]]] = {e.key: [] for e in entrants}
    warmth: dict[str, list[dict[str, float]]] = {e.key: [] for e in entrants}
    rng = np.random.default_rng(plan.seed)
    blocks: list[int] = []
    rounds = plan.rounds
    idle = _IdleMeter()
    threads = max((e.runtime.num_threads(e.target) for e in entrants), default=1)
    slowdowns, patience = [], _PATIENCE_SECONDS
    for block in range(plan.blocks):
        runners: dict[str, Worker] = {}
        slowdowns.append(round(cores.settled(threads, patience), 3))
        if slowdowns[-1] > cores.SHARED:  # waiting did not help: a busy machine must not cost more than this
            patience = 0.0
        try:
            for index in rng.permutation(len(entrants)):  # the order of births must not favour one
                runners[entrants[index].key] = start(entrants[index])
            for entrant in entrants:
                warmth[entrant.key].append(runners[entrant.key].call(tasks.warm_up, plan.warm_up_seconds))
            if block == 0:
                rounds = affordable_rounds(plan, [warmth[e.key][0]["best"] for e in entrants])
            for _ in range(rounds):
                idle.begin(w.pid for w in runners.values())
                for index in rng.permutation(len(entrants)):
                    key = entrants[index].key
                    slow = warmth[key][-1]["best"] > plan.slice_seconds
                    least = min(2, plan.min_runs) if slow else plan.min_runs
                    walls, cpus, spent = runners[key].call(tasks.time_slice, plan.slice_seconds, least, meter)
                    wall[key].append(walls)
                    cpu[key].append(cpus)
                    if spent is not None:
                        joules[key].append(spent)
                idle.end(w.pid for w in runners.values())
                blocks.append(block)
                if progress:
                    progress(len(blocks) / (plan.blocks * rounds))
        finally:
            for runner in runners.values():
                runner.close()
    others = idle.others_busy()
    told = {
        "blocks": plan.blocks, "block_of_round": blocks, "rounds": rounds, "slice_seconds": plan.slice_seconds,
        "entrants": [e.key for e in entrants], "slowdown": slowdowns,
    }  # fmt: skip
    taken = {**where, "others_busy": others, "load_average": load_average()}
    latency = {e.key: _measurement(e, wall[e.key], cpu[e.key], {**told, "warm_up": warmth[e.key]}, taken) for e in entrants}
    spending = {key: energy.measured(joules[key], meter.text, m.method, m.where) for key, m in latency.items()} if meter else {}
    return Race(latency=latency, block_of_round=tuple(blocks), others_busy=others, slowdown=max(slowdowns, default=1.0), energy=spending)


def _measurement(
    entrant: Entrant, wall: Sequence[Sequence[float]], cpu: Sequence[Sequence[float]], told: Mapping[str, Any], where: Mapping[str, Any]
) -> Measurement:
    """The latency of an entrant from its seconds by round. told: how the race was run."""
    return Measurement(
        metric="latency", unit="s", samples=tuple(s for r in wall for s in r), groups=tuple(g for g, r in enumerate(wall) for _ in r),
        cpu_seconds=tuple(s for r in cpu for s in r),
        method={"how": "interleaved rounds of wall-clock timed calls, each program in a process of its own", **told,
                "batch_size": entrant.batch_size, "threads": entrant.runtime.num_threads(entrant.target)},
        where=where,
    )  # fmt: skip


def affordable_rounds(plan: Plan, best_seconds: Sequence[float]) -> int:
    """Rounds of a block that takes about plan.block_seconds. At least 6: with two calls each, five blocks own a 95th percentile."""
    # each slice starts with a run that is not counted
    one_round = sum(max(plan.slice_seconds + best, (plan.min_runs + 1) * best) for best in best_seconds)
    return max(min(6, plan.rounds), min(plan.rounds, round(plan.block_seconds / one_round)))


def start(entrant: Entrant) -> Worker:
    """A worker that holds the entrant's program and inputs. Raises WorkerError, or what loading raises."""
    threads = entrant.runtime.num_threads(entrant.target)
    worker = Worker(f"{entrant.runtime.name} {entrant.key}", threads=threads)
    try:
        worker.call(tasks.load_program, entrant.runtime, entrant.folder, entrant.target)
        worker.call(tasks.hold_inputs, entrant.tensors, entrant.batch_size)
    except BaseException:
        worker.close()
        raise
    return worker


class _IdleMeter:
    """Adds up what processes other than ours took of the machine while we timed."""

    def __init__(self) -> None:
        self._others = self._capacity = 0.0
        self._opened: tuple[float, float, float] | None = None

    def begin(self, pids: Any) -> None:
        self._opened = self._read(pids)

    def end(self, pids: Any) -> None:
        now = self._read(pids)
        if self._opened is None or now is None:
            return
        busy, ours, clock = (b - a for a, b in zip(self._opened, now, strict=True))
        self._others += max(0.0, busy - ours)
        self._capacity += clock * (os.cpu_count() or 1)

    def others_busy(self) -> float | None:
        """Known to about 0.01 s of CPU time a round: the kernel's tick."""
        return round(min(1.0, self._others / self._capacity), 4) if self._capacity else None

    @staticmethod
    def _read(pids: Any) -> tuple[float, float, float] | None:
        try:
            tick = os.sysconf("SC_CLK_TCK")
            fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            busy = (sum(fields) - fields[3] - fields[4]) / tick  # all but idle and iowait; steal counts as busy
            own = [os.getpid(), *pids]
            used = 0.0
            for pid in own:
                stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                used += (int(stat[11]) + int(stat[12])) / tick
            return busy, used, time.perf_counter()
        except (OSError, ValueError, IndexError):
            return None
