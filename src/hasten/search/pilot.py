"""What training will take here, timed over a few steps before any of it is planned."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..core.seams import Training
from ..core.widths import Site
from ..measure import cores
from ..measure.errands import Station
from ..measure.worker import State, Worker
from ..train import pilot
from ..train.cut import find_sites
from ..train.student import Student

_PATIENCE_SECONDS = 20.0  # for cores that are shared just now: beside other work a step took up to a hundred times as long as without


def pace(station: Station, training: Training, threads: int) -> dict[str, Any]:
    """How long one pass over the train split takes, and how, once the cores are this machine's own: a Pace as JSON under `pace`, and
    `slowdown` of the cores (`measure.cores`). Raises HastenError."""
    slowdown = round(cores.settled(threads, _PATIENCE_SECONDS), 3)
    with Worker("training pilot", threads=threads, patient=True) as worker:
        return {"pace": worker.call(_pace, training), "slowdown": slowdown}


def _pace(state: State, training: Training) -> dict[str, Any]:
    return asdict(pilot.pace(training))


def sites(station: Station, training: Training) -> list[Site]:
    """The layers of the original that have widths. Raises HastenError."""
    with Worker("layers") as worker:
        return worker.call(_sites, training)


def _sites(state: State, training: Training) -> list[Site]:
    student = Student.of(training, training.original, seed=0)
    return list(find_sites(student.module, student.example()).values())
