"""A model that learns from another: what every technique that trains has in its hands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..core.candidate import Candidate
from ..core.need import missing
from ..core.seams import Context, Profile, Training
from .batches import Batch, Batches
from .lift import flat_outputs, lower, read_module
from .loop import Plan, fit
from .loss import Distillation

if TYPE_CHECKING:
    import torch
    from torch import fx, nn


def cannot_train(profile: Profile, *packages: str) -> str | None:
    """Why a technique that trains with these packages does not fit, or None. Nothing is imported."""
    return missing(*packages) if profile.num_train else "it trains: give data.train and --train-budget"


@dataclass(kw_only=True)
class Student:
    """module: what is trained, changed in place; teacher: the original; batches: the train split; distillation: how they are compared.

    candidate: what `module` was before; training: as the technique got it.
    """

    module: fx.GraphModule
    teacher: nn.Module
    batches: Batches
    distillation: Distillation
    candidate: Candidate
    training: Training

    @classmethod
    def of(cls, training: Training, candidate: Candidate, *, seed: int, alpha: float = Distillation.alpha) -> Self:
        """A student that starts as `candidate`, on the module floor. alpha: the teacher's share of the loss."""
        names = [spec.name for spec in candidate.signature.inputs]
        return cls(
            module=read_module(candidate.path), teacher=read_module(training.teacher.path).requires_grad_(False),
            batches=Batches.of(training, names, seed), candidate=candidate, training=training,
            distillation=Distillation(alpha=alpha, classifier=training.classifier),
        )  # fmt: skip

    @classmethod
    def taught_in(cls, context: Context, candidate: Candidate, *, alpha: float) -> Self:
        """The student of a technique that trains."""
        assert context.training is not None, "a technique that trains is given what it trains with"
        return cls.of(context.training, candidate, seed=context.seed, alpha=alpha)

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """How far the module's answers are from the teacher's and the labels: a scalar. Outputs that are not judged are taught too."""
        import torch

        with torch.no_grad():
            wanted = flat_outputs(self.teacher(*batch.inputs))
        total = torch.zeros(())
        for place, (ours, theirs) in enumerate(zip(flat_outputs(module(*batch.inputs)), wanted, strict=True)):
            if place == self.training.output:
                total = total + self.distillation(ours, theirs, batch.labels)
            elif ours.is_floating_point():
                total = total + Distillation(classifier=False)(ours, theirs, None)
        return total

    def learn(self, plan: Plan) -> list[float]:
        """Train; a killed training goes on from its checkpoint. Returns the loss by epoch."""
        return fit(self.module, self.batches, self.loss, plan, checkpoint=self.training.checkpoint)

    def example(self) -> tuple[torch.Tensor, ...]:
        """A few samples of each input, [4, ...]: enough to trace with, and to see that it runs."""
        return self.batches.plain(4).inputs

    def export(self, folder: Path) -> Path:
        """The module as an exported program in `folder`. Raises ExportError."""
        path = folder / "model.pt2"
        lower(self.module, self.example(), path, free_batch=self.candidate.signature.batch is None)
        return path
