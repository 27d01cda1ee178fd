"""What training will take here, timed over a few steps before any of it is planned."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..core.seams import Training
from ..core.widths import Site
from ..measure.errands import Station
from ..measure.worker import State, Worker
from ..train import pilot
from ..train.cut import find_sites
from ..train.student import Student


def pace(station: Station, training: Training, threads: int) -> dict[str, Any]:
    """How long one pass over the train split takes for a student as large as the original, and how: a Pace as JSON. Raises HastenError."""
    with Worker("training pilot", threads=threads, patient=True) as worker:
        return worker.call(_pace, training)


def _pace(state: State, training: Training) -> dict[str, Any]:
    return asdict(pilot.pace(training))


def sites(station: Station, training: Training) -> list[Site]:
    """The layers of the original that have widths. Raises HastenError."""
    with Worker("layers") as worker:
        return worker.call(_sites, training)


def _sites(state: State, training: Training) -> list[Site]:
    student = Student.of(training, training.original, seed=0)
    return list(find_sites(student.module, student.example()).values())
