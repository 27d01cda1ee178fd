"""Measures an opened model on each runtime: time per operator, memory, and how it scales with threads and samples a call."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..core.errors import NotPossibleHere
from ..core.job import Job
from ..core.machine import load_average, this_machine, usable_cores
from ..core.measurement import Measurement
from ..core.seams import OperatorTime, Runtime, Target
from ..core.store import Store
from ..measure import tasks
from ..measure.ceilings import Ceilings
from ..measure.latency import Entrant, Plan, Race, race
from ..measure.node_costs import Cost, Costs
from ..measure.roofline import rate, verdict
from ..measure.worker import State, Worker, run
from ..search.crew import Local
from ..search.observer import Observer
from ..search.workshop import kept_ceilings
from .opening import Opened, Program, noting, open_source

_CALLS = 50  # of the profiler
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_LONGEST_SECONDS = 1.0  # of a call in the batch-size curve
_MEMORY_SECONDS = 0.5
_PLAN = Plan(rounds=12, block_seconds=5.0, warm_up_seconds=1.0)
_BUSY = 0.15


def profile(source: Path | str | Job, *, data: Any, threads: int | None, store: Store, observer: Observer) -> dict[str, Any]:
    """The document that `api.profile_model` describes. Raises HastenError."""
    with tempfile.TemporaryDirectory(prefix="hasten-profile-") as scratch:
        opened = open_source(source, data, threads, store, observer, Path(scratch))
        observer.stage("ceilings", "what this machine can do at most")
        target = opened.programs[0].subject.target
        ceilings = kept_ceilings(Local(store), [p.subject.runtime for p in opened.programs], target, step=store.step)
        with store.measuring():
            return _measure(opened, ceilings, observer)


def _measure(opened: Opened, ceilings: Ceilings, observer: Observer) -> dict[str, Any]:
    programs, problems = opened.programs, dict(opened.problems)
    observer.stage("operators", "each runtime's own profiler, and memory over time")
    told: dict[str, tuple[tuple[OperatorTime, ...] | None, dict[str, Any]]] = {}
    for number, program in enumerate(programs):
        observer.trying(program.name, "operators and memory")
        observer.trying(program.name, "", number / len(programs))
        with noting(problems, program.subject.runtime):
            told[program.name] = _operators(program), _memory(program)
    programs = [program for program in programs if program.name in told]
    if not programs:
        raise NotPossibleHere("profile", f"could not run the model ({'; '.join(problems.values())})")
    observer.stage("threads", "every runtime with 1 to all cores, in turn")
    counts = thread_counts(usable_cores(), programs[0].subject.target.threads)
    threads = _race([_threaded(program, count) for program in programs for count in counts], observer)
    rows = []
    for program in programs:
        latency = threads.latency[_key(program, program.subject.target.threads)]
        observer.stage(f"batches on {program.name}", "1 to 64 samples a call, in turn")
        batches = _batches(program, latency, observer)
        rows.append(_row(program, *told[program.name], ceilings, latency, _thread_rows(program, counts, threads), batches))
    rows.sort(key=lambda row: row["latency"]["value"])
    target = programs[0].subject.target
    return {
        "name": opened.name, "sentence": f"{rows[0]['name']}: {rows[0]['sentence']}", "threads": target.threads,
        "batch_size": target.batch_size, "machine": this_machine().to_json(), "ceilings": ceilings.to_json(), "runtimes": rows,
        "problems": problems, "sentences": _remarks(threads),
    }  # fmt: skip


def _operators(program: Program) -> tuple[OperatorTime, ...] | None:
    s = program.subject
    with Worker(f"profile {s.runtime.name}", threads=s.runtime.num_threads(s.target)) as worker:
        rows = worker.call(tasks.operator_times, s.runtime, s.folder, s.target, program.tensors, _CALLS)
    return None if rows is None else tuple(OperatorTime(**{**row, "nodes": tuple(row["nodes"])}) for row in rows)


def _memory(program: Program) -> dict[str, Any]:
    s = program.subject
    with Worker(f"memory {s.runtime.name}", threads=s.runtime.num_threads(s.target)) as worker:
        return worker.call(tasks.memory_curve, s.runtime, s.folder, s.target, program.tensors, s.target.batch_size, _MEMORY_SECONDS)


def thread_counts(cores: int, asked: int) -> list[int]:
    """1, 2, 4 ... up to all cores, these themselves, and what was asked for."""
    return sorted({1, cores, asked, *(2**k for k in range(cores.bit_length()) if 2**k <= cores)})


def batch_sizes(seconds: float, batch: int) -> list[int]:
    """The sizes of which a call stays under a second, if `batch` samples take `seconds`; one sample always."""
    return [size for size in _BATCHES if size == 1 or seconds * size / batch <= _LONGEST_SECONDS]


def _threaded(program: Program, threads: int) -> Entrant:
    s = program.subject
    runtime = s.runtime if threads == s.target.threads else replace(cast(Any, s.runtime), threads=threads)
    return _entrant(program, runtime, replace(s.target, threads=threads), _key(program, threads))


def _entrant(program: Program, runtime: Runtime, target: Target, key: str) -> Entrant:
    return Entrant(
        key=key, runtime=runtime, folder=program.subject.folder, target=target, tensors=program.tensors, batch_size=target.batch_size
    )


def _key(program: Program, number: int) -> str:
    return f"{program.name} {number}"


def _race(entrants: Sequence[Entrant], observer: Observer) -> Race:
    where = {"machine": this_machine().id, "load_average": load_average()}
    return race(entrants, _PLAN, where=where, progress=lambda fraction: observer.trying("timing", "", fraction))


def _thread_rows(program: Program, counts: Sequence[int], threads: Race) -> list[dict[str, Any]]:
    return [{"threads": k, "latency": threads.latency[_key(program, k)].interval().to_json()} for k in counts]


def _batches(program: Program, latency: Measurement, observer: Observer) -> list[dict[str, Any]]:
    """Latency and throughput by samples a call; nothing where the model's batch is fixed."""
    s = program.subject
    if s.signature.batch is not None:
        return []
    sizes = batch_sizes(latency.interval().value, s.target.batch_size)
    result = _race([_entrant(program, s.runtime, replace(s.target, batch_size=size), str(size)) for size in sizes], observer)
    rows = []
    for size in sizes:
        interval = result.latency[str(size)].interval()
        rate_ = {"value": size / interval.value, "low": size / interval.high, "high": size / interval.low}
        rows.append({"batch_size": size, "latency": interval.to_json(), "throughput": rate_})
    return rows


def _row(
    program: Program, operators: tuple[OperatorTime, ...] | None, memory: dict[str, Any], ceilings: Ceilings, latency: Measurement,
    threads: list[dict[str, Any]], batches: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """All that is known of one runtime."""
    call = latency.interval()
    rated = rate(operators, _costs(program, operators), ceilings) if operators else []
    return {
        "name": program.name, "latency": call.to_json(), "percentiles_seconds": {f"p{q}": latency.percentile(q) for q in (50, 95, 99)},
        "num_runs": len(latency.samples),
        "sentence": verdict(rated, min(latency.samples)) if rated else "It does not tell where its time goes.",
        "operators": [r.to_json() for r in rated], "memory": memory, "threads": threads, "batches": batches,
    }  # fmt: skip


def _costs(program: Program, operators: Sequence[OperatorTime]) -> list[Cost]:
    """What each operator computes and moves. Counted in a child: the graph is foreign."""
    if program.graph is None:
        return [Cost(flops=None, size_bytes=None)] * len(operators)
    shapes = {name: np.load(path, mmap_mode="r").shape[1:] for name, path in program.tensors.items()}
    return run("count", _count, program.graph, program.subject.target.batch_size, shapes, [o.nodes for o in operators])


def _count(state: State, graph: Path, batch: int, shapes: Mapping[str, tuple[int, ...]], groups: list[tuple[str, ...]]) -> list[Cost]:
    costs = Costs(graph, batch, shapes)
    return [costs.of(group) for group in groups]


def _remarks(timed: Race) -> list[str]:
    told = ["Times per operator come from each runtime's own profiler, which slows small operators: shares are what can be trusted."]
    if timed.others_busy is not None and timed.others_busy > _BUSY:
        told.append(f"Other processes took {100 * timed.others_busy:.0f} % of the machine: absolute times are too high.")
    return told
