"""What training will take here, timed over a few steps before any of it is planned."""

from __future__ import annotations

from ..core.seams import Training
from ..measure.errands import Station
from ..measure.worker import State, Worker
from ..train import pilot


def epoch_seconds(station: Station, training: Training, threads: int) -> float:
    """Seconds of one pass over the train split, as large as the original, with it as the teacher. Raises HastenError."""
    with Worker("training pilot", threads=threads) as worker:
        return worker.call(_epoch_seconds, training)


def _epoch_seconds(state: State, training: Training) -> float:
    return pilot.epoch_seconds(training)
