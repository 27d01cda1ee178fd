"""How long an epoch takes, and in which arithmetic it is shortest."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass, replace

from ..core.seams import Training
from .loop import in_memory
from .student import Student

_STEPS = 5
_SECONDS = 10.0  # no new step after them
_WORTH = 1.15  # times faster that bfloat16 must be: a choice that noise decides would not be the same tomorrow


@dataclass(frozen=True, kw_only=True)
class Pace:
    """seconds: of one pass over the train split for a student as large as the teacher; bfloat16: whether with products in bfloat16."""

    seconds: float
    bfloat16: bool


def pace(training: Training) -> Pace:
    """A few steps of each kind, timed: that a processor has bfloat16 does not say that it is faster. Raises HastenError."""
    student = Student.of(replace(training, answers=None), training.teacher, seed=0)
    plain, short = (_step_seconds(student, bfloat16) for bfloat16 in (False, True))
    chosen = plain > _WORTH * short
    return Pace(seconds=(short if chosen else plain) * len(student.batches), bfloat16=chosen)


def _step_seconds(student: Student, bfloat16: bool) -> float:
    import torch

    module = in_memory(student.module.train(), torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)
    times, began = [], time.perf_counter()
    for batch in itertools.islice(student.batches.epoch(0), _STEPS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = student.loss(module, batch)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
        if time.perf_counter() - began > _SECONDS:
            break
    return statistics.median(times[1:] or times)
