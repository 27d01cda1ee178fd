"""How long an epoch takes, and in which arithmetic it is shortest."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass, replace

from ..core.seams import Training
from .loop import in_memory
from .student import Student

_STEPS = 8
_SECONDS = 20.0  # no new step after them
_WORTH = 1.15  # times faster that bfloat16 must be: a choice that noise decides would not be the same tomorrow


@dataclass(frozen=True, kw_only=True)
class Pace:
    """seconds: of one pass over the train split for a student as large as the teacher; bfloat16: whether with products in bfloat16."""

    seconds: float
    bfloat16: bool


def pace(training: Training) -> Pace:
    """A few steps of each kind in turn, timed: that a processor has bfloat16 does not say that it is faster. Raises HastenError."""
    student = Student.of(replace(training, answers=None), training.original, seed=0)
    times = _step_seconds(student)
    plain, short = (min(found[1:] or found) for found in times.values())  # of the same step again and again: what disturbs only adds
    chosen = plain > _WORTH * short
    return Pace(seconds=statistics.median(times[chosen][1:] or times[chosen]) * len(student.batches), bfloat16=chosen)


def _step_seconds(student: Student) -> dict[bool, list[float]]:
    """Of steps in float32 and, under True, with products in bfloat16. Samples that are not augmented the teacher is asked about once, and
    not in every epoch: that does not count."""
    import torch

    module = in_memory(student.module.train(), torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)
    times: dict[bool, list[float]] = {False: [], True: []}
    began = time.perf_counter()
    for batch in itertools.islice(student.batches.epoch(0), _STEPS):
        start = time.perf_counter()
        answers = student.teacher(batch)
        asked = time.perf_counter() - start if batch.rows is None else 0.0
        for bfloat16, found in times.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = student.loss(module, batch, answers)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            found.append(time.perf_counter() - start + asked)
        if time.perf_counter() - began > _SECONDS:
            break
    return times
