"""A version that gets copies of requests, whose outputs are compared with those that were sent and answer nobody.

A copy is made only after the answer is there, one at a time, and only while no request waits for a real one: what is in the way is left
out and counted. It shares the cores with the others all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..bundle.verify import OTHER_REDUCED, relative_difference
from ..core.errors import DataError, HastenError
from .batcher import Outputs
from .models import Model, Wish
from .schedule import Priority

_PATIENCE_SECONDS = 10.0

OUTCOMES = ("same", "different", "failed", "left out")


@dataclass(kw_only=True)
class Shadow:
    """The comparisons of one shadow. told: called with the outcome of each copy."""

    told: Callable[[str], None] = lambda outcome: None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    worst: float = 0.0  # relative difference among those that could be compared
    _task: asyncio.Task[None] | None = None

    def offer(self, model: Model, answered: Model, tensors: Mapping[str, np.ndarray], outputs: Outputs) -> None:
        """What `answered` made of `tensors`; `model` may be asked too."""
        busy = self._task is not None and not self._task.done()
        if busy or answered.waiting or not model.ready:
            self._count("left out")
            return
        self._task = asyncio.create_task(self._compare(model, answered, tensors, outputs))

    async def settled(self) -> None:
        """Until no comparison is under way."""
        if self._task is not None:
            await self._task

    def document(self) -> dict[str, Any]:
        """For people and programs."""
        return {"outcomes": dict(self.counts), "worst_difference": self.worst, "tolerance": OTHER_REDUCED}

    async def _compare(self, model: Model, answered: Model, tensors: Mapping[str, np.ndarray], outputs: Outputs) -> None:
        wish = Wish(arrived=time.monotonic(), timeout=_PATIENCE_SECONDS, priority=Priority.BULK)
        try:
            with model.held():
                if model.bundle.manifest.preprocess != answered.bundle.manifest.preprocess:
                    raise DataError("shadow", "must prepare its inputs as the version that answered does")
                others = await model.infer(model.bundle.prepare_tensors(tensors), wish)
                self._count(await asyncio.to_thread(self._judge, model, outputs, others))
        except HastenError:
            self._count("failed")
        except Exception:
            self._count("failed")
            raise

    def _judge(self, model: Model, outputs: Outputs, others: Outputs) -> str:
        if outputs.keys() != others.keys():
            return "different"
        worst = max(relative_difference(others[name], outputs[name]) for name in outputs)
        self.worst = max(self.worst, worst)
        manifest = model.bundle.manifest
        same = worst <= OTHER_REDUCED
        if manifest.classifier:
            same = same and bool((outputs[manifest.output].argmax(axis=1) == others[manifest.output].argmax(axis=1)).all())
        return "same" if same else "different"

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1
        self.told(outcome)
