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
    """seconds: of one pass over the train split for a student as large as the original; bfloat16: whether with products in bfloat16;
    teacher_seconds: of asking the teacher about the whole split; asks_anew: whether every epoch asks it about other samples, since they are
    augmented."""

    seconds: float
    bfloat16: bool
    teacher_seconds: float
    asks_anew: bool


def pace(training: Training) -> Pace:
    """A few steps of each kind in turn, timed: that a processor has bfloat16 does not say that it is faster. Raises HastenError."""
    student = Student.of(replace(training, answers=None), training.original, seed=0)
    steps, asked = _step_seconds(student)
    plain, short = (min(found[1:] or found) for found in steps.values())  # of the same step again and again: what disturbs only adds
    chosen, num_steps = plain > _WORTH * short, len(student.batches)
    return Pace(
        seconds=_usual(steps[chosen]) * num_steps, bfloat16=chosen, teacher_seconds=_usual(asked) * num_steps,
        asks_anew=training.augment != "none",
    )  # fmt: skip


def _usual(seconds: list[float]) -> float:
    """Of a step, the first of which is slow."""
    return statistics.median(seconds[1:] or seconds)


def _step_seconds(student: Student) -> tuple[dict[bool, list[float]], list[float]]:
    """Of steps in float32 and, under True, with products in bfloat16; and of asking the teacher about a batch."""
    import torch

    module = in_memory(student.module.train(), torch.channels_last)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)
    times: dict[bool, list[float]] = {False: [], True: []}
    asked: list[float] = []
    began = time.perf_counter()
    for batch in itertools.islice(student.batches.epoch(0), _STEPS):
        start = time.perf_counter()
        answers = student.teacher(batch)
        asked.append(time.perf_counter() - start)
        for bfloat16, found in times.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = student.loss(module, batch, answers)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            found.append(time.perf_counter() - start)
        if time.perf_counter() - began > _SECONDS:
            break
    return times, asked
