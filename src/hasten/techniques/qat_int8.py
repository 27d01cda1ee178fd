"""Training with the rounding of 8 bits in it, so that what comes after loses less."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from ..core.candidate import Candidate, Floor
from ..core.seams import Context, Forecast, Profile, Technique, option
from ..train import fake
from ..train.fold import fold_norms
from ..train.loop import Plan
from ..train.student import Student, cannot_train

_WATCHED = 16  # batches that the first ranges of activations are taken from


@dataclass(frozen=True, kw_only=True)
class QatInt8(Technique):
    """Quantisation-aware training (Jacob et al. 2017, arXiv:1712.05877, section 3): batch normalisation folded and frozen, weights and the
    inputs of layers rounded in the forward pass, gradients straight through, the ends of activations learnt. The original is the teacher.

    The result is a float model whose activations are clipped to what was learnt; the quantiser that failed before does the rest.
    """

    name: ClassVar[str] = "qat-int8"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    rescues: ClassVar[frozenset[str]] = frozenset({"int8-activations"})
    forbids: ClassVar[frozenset[str]] = frozenset({"trained-for-int8", "sparse-weights"})  # training would fill the zeros
    adds: ClassVar[frozenset[str]] = frozenset({"trained-for-int8"})
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    epochs: int = option(3, "Passes over the train split.", choices=(3,), low=0)
    learning_rate: float = option(2e-4, "At its highest.", low=0.0)
    alpha: float = option(0.7, "The teacher's share of the loss; the labels have the rest.", low=0.0, high=1.0)
    per_channel: bool = option(True, "Weights have one scale for each output channel, as the quantiser after it will give them.")

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return cannot_train(profile, "torch")

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=profile.training_seconds(self.epochs, 1.5))

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        import torch

        student = Student.taught_in(context, candidate, alpha=self.alpha)
        fold_norms(student.module)
        fake.insert(student.module, per_channel=self.per_channel)
        with torch.no_grad():
            for batch in itertools.islice(student.batches.epoch(0), _WATCHED):
                student.module(*batch.inputs)
        fake.start(student.module)
        student.learn(Plan(epochs=self.epochs, learning_rate=self.learning_rate, weight_decay=0.0, seed=context.seed))
        fake.remove(student.module)
        return candidate.then(self.step(), student.export(context.folder), adds=self.adds, lossless=False, notes=student.notes)
