"""How long an epoch takes."""

from __future__ import annotations

import itertools
import statistics
import time

from ..core.seams import Training
from .student import Student

_STEPS = 6
_SECONDS = 20.0  # no new step after them


def epoch_seconds(training: Training) -> float:
    """Seconds of one pass over the train split for a student as large as the teacher. Raises HastenError."""
    import torch

    student = Student.of(training, training.teacher, seed=0)
    module = student.module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)
    times, began = [], time.perf_counter()
    for batch in itertools.islice(student.batches.epoch(0), _STEPS):
        start = time.perf_counter()
        torch.autograd.backward(student.loss(module, batch))
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
        if time.perf_counter() - began > _SECONDS:
            break
    return statistics.median(times[1:] or times) * len(student.batches)
