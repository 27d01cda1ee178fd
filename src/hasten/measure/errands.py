"""What the search wants done, as functions that may run on another machine. Each opens the child processes that do it.

`tasks` holds what is done inside those children. An errand's first argument is the station that it runs at; its files are
in the station's store, or in the folder that it is given to write into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.candidate import Candidate
from ..core.machine import load_average, this_machine
from ..core.registry import find
from ..core.seams import Check, Context, Runtime, Target, Technique
from ..core.store import Store
from ..core.widths import Site
from . import energy, latency, tasks
from .ceilings import measure_ceilings
from .layers import layer_kinds
from .sensitivity import measure_parts
from .widths import measure_widths
from .worker import State, Worker

Findings = list[tuple[str, frozenset[str]]]
"""What checks learnt: a sentence for people, and facts."""


@dataclass(frozen=True, kw_only=True)
class Station:
    """Where errands run. store: of this machine; node: its name in a cluster, empty for the search's own machine;
    tell: hears how far a race is, None in a cluster; kept: children that outlive an errand, by name."""

    store: Store
    node: str = ""
    tell: latency.Progress | None = None
    kept: dict[str, Worker] = field(default_factory=dict)

    def where(self) -> dict[str, Any]:
        """Where measurements at this station are taken."""
        place = {"machine": this_machine().id, "load_average": load_average()}
        return {**place, "node": self.node} if self.node else place

    def release(self, name: str) -> None:
        """End a kept child, if it is there."""
        if worker := self.kept.pop(name, None):
            worker.close()

    def close(self) -> None:
        """End every kept child."""
        for name in list(self.kept):
            self.release(name)


def build(station: Station, seconds: float, technique: Technique, candidate: Candidate, context: Context) -> dict[str, Any]:
    """The candidate after the technique as JSON, its files in the context's folder. seconds: at most. Raises HastenError."""
    with Worker(technique.name, threads=context.threads, patient=True) as worker:
        return worker.call_within(seconds, tasks.apply_technique, technique, candidate, context)


def count(station: Station, path: Path, batch_size: int) -> dict[str, Any]:
    """Operations, parameters and operators of a graph: `flops.count` as JSON."""
    with Worker("count") as worker:
        return worker.call(tasks.count_graph, path, batch_size)


def compile_program(
    station: Station, seconds: float, runtime: Runtime, candidate: Candidate, target: Target, folder: Path
) -> dict[str, Any]:  # fmt: skip
    """The candidate compiled into `folder`, which is made. Returns `size_bytes`. Raises HastenError."""
    folder.mkdir()
    with Worker(runtime.name, threads=target.threads) as worker:
        return {"size_bytes": worker.call_within(seconds, tasks.compile_program, runtime, candidate, target, folder)}


def race(station: Station, entrants: list[latency.Entrant], plan: latency.Plan, meter: energy.Meter | None = None) -> dict[str, Any]:
    """The entrants timed against each other, nothing else measuring here meanwhile: a Race as JSON. Raises WorkerError."""
    with station.store.measuring():
        return latency.race(entrants, plan, where=station.where(), progress=station.tell, meter=meter).to_json()


def memory(
    station: Station, runtime: Runtime, folder: Path, target: Target, tensors: Mapping[str, Path], batch_size: int
) -> dict[str, Any]:  # fmt: skip
    """Peak bytes of a process `before` and `after` it loaded and ran the program in `folder`, and `where`. Raises HastenError."""
    with Worker("memory", threads=runtime.num_threads(target)) as worker:
        before, after = worker.call(tasks.peak_memory, runtime, folder, target, tensors, batch_size)
    return {"before": before, "after": after, "where": station.where()}


def operator_times(
    station: Station, runtime: Runtime, folder: Path, target: Target, tensors: Mapping[str, Path], calls: int
) -> Any:  # fmt: skip
    """Where the time of one call of the program in `folder` goes, nothing else measuring here meanwhile: see `tasks.operator_times`."""
    with station.store.measuring(), Worker(f"profile {runtime.name}", threads=runtime.num_threads(target)) as worker:
        return worker.call(tasks.operator_times, runtime, folder, target, tensors, calls)


def ceilings(station: Station, runtimes: Sequence[Runtime], target: Target) -> dict[str, Any]:
    """What this machine can do at most, nothing else measuring here meanwhile: Ceilings as JSON. Raises WorkerError, MissingExtra."""
    with station.store.measuring():
        return measure_ceilings(runtimes, target).to_json()


def widths(station: Station, runtime: Runtime, target: Target, sites: Sequence[Site]) -> dict[str, Any]:
    """What layers take at every width in `runtime`, nothing else measuring here meanwhile: a WidthTable as JSON. Raises HastenError."""
    with station.store.measuring():
        return measure_widths(runtime, target, sites, where=station.where()).to_json()


def parts(
    station: Station, path: Path, tensors: Mapping[str, Path], threads: int, *, batch: int, reduce_range: bool
) -> list[dict[str, Any]]:  # fmt: skip
    """What 8-bit numbers do to the outputs of a graph here, part by part: Parts as JSON. Raises NotPossibleHere."""
    with Worker("sensitivity", threads=threads) as worker:
        return worker.call(measure_parts, path, tensors, batch=batch, reduce_range=reduce_range)


def layers(station: Station, path: Path) -> dict[str, str]:
    """Node name -> kind of layer of a graph."""
    with Worker("layers") as worker:
        return worker.call(layer_kinds, path)


def find_energy(station: Station, device: str, watts_per_core: float | None) -> energy.Source:
    """How the energy of a call on `device` can be known here."""
    return energy.find_source(device, watts_per_core)


def evaluate(station: Station, name: str, entrant: latency.Entrant, start_at: int, stop: int, batch_size: int, folder: Path) -> float:
    """Outputs of the entrant's program for the samples `start_at` to `stop` of its tensors, into `folder` (see `tasks.evaluate`).

    Its process stays for the next call with the same `name`, until `Station.release`. Returns the seconds of the runs.
    """
    if name not in station.kept:
        station.kept[name] = latency.start(entrant)
    try:
        return station.kept[name].call(tasks.evaluate, entrant.tensors, start_at, stop, batch_size, folder)
    except BaseException:  # crashed or interrupted: the next call starts a fresh one
        station.release(name)
        raise


def ask(station: Station, target: Target) -> Findings:
    """What the checks of the doctor learn here."""
    with Worker("doctor", threads=target.threads) as worker:
        return worker.call(_ask, target)


def _ask(state: State, target: Target) -> Findings:
    findings = [kind().ask(target) for kind in find(Check).values()]
    return [(finding.sentence, finding.facts) for finding in findings]
