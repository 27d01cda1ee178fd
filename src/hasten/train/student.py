"""A model that learns from another: what every technique that trains has in its hands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..core.candidate import Candidate
from ..core.errors import NotPossibleHere
from ..core.need import missing
from ..core.seams import Context, Profile, Training
from ..core.widths import WidthTable
from . import features
from .answers import Teacher
from .batches import Batch, Batches
from .importance import scales
from .lift import flat_outputs, lower, read_module
from .loop import Feed, Plan, fit, save
from .loss import Distillation, distance, relations
from .served import Served

if TYPE_CHECKING:
    import torch
    from torch import fx, nn


def cannot_train(profile: Profile, *packages: str) -> str | None:
    """Why a technique that trains with these packages does not fit, or None. Nothing is imported."""
    return missing(*packages) if profile.num_train else "it trains: give data.train and --train-budget"


def _asked(training: Training, *, taps: bool) -> Any:
    """Who teaches: a module, or one behind a server. taps: with features as one more output."""
    source = training.teacher or training.original
    if not isinstance(source, str):
        module = read_module(source.path).requires_grad_(False)
        return features.tapped(module) if taps else module
    if taps:
        raise NotPossibleHere("train.teacher", "must be a model, not a server, where its features are learnt", got=source)
    return Served(source, training.original.signature)


@dataclass(kw_only=True)
class Student:
    """module: what is trained, changed in place; teacher: whose answers it learns; batches: the train split; distillation: how they
    are compared.

    candidate: what `module` was before; training: as the technique got it; features, relations: how much the distance of features counts,
    and how much how samples lie to one another by them; sparsity: the penalty on the scales of normalisations, each; notes: what became
    of it, for people.
    """

    module: fx.GraphModule
    teacher: Teacher
    batches: Batches
    distillation: Distillation
    candidate: Candidate
    training: Training
    features: float = 0.0
    relations: float = 0.0
    sparsity: float = 0.0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, training: Training, candidate: Candidate, *, seed: int, distillation: Distillation | None = None, features_share: float = 0.0,
        relations_share: float = 0.0,
    ) -> Self:  # fmt: skip
        """A student that starts as `candidate`, on the module floor. features_share, relations_share: as the fields."""
        names = [spec.name for spec in candidate.signature.inputs]
        batches = Batches.of(training, names, seed)
        taps = bool(features_share or relations_share)
        meets = "plain" if training.augment == "none" else str(seed)  # samples as they are, whatever the seed
        folder = training.answers / f"{meets}{'-features' if taps else ''}" if training.answers else None
        return cls(
            module=read_module(candidate.path), teacher=Teacher(module=_asked(training, taps=taps), batches=batches, folder=folder),
            batches=batches, candidate=candidate, training=training, features=features_share, relations=relations_share,
            distillation=replace(distillation or Distillation(), classifier=training.classifier),
        )  # fmt: skip

    @classmethod
    def taught_in(
        cls, context: Context, candidate: Candidate, *, alpha: float, temperature: float = 3.0, features_share: float = 0.0,
        relations_share: float = 0.0,
    ) -> Self:  # fmt: skip
        """The student of a technique that trains."""
        assert context.training is not None, "a technique that trains is given what it trains with"
        loss = Distillation(alpha=alpha, temperature=temperature)
        return cls.of(
            context.training, candidate, seed=context.seed, distillation=loss, features_share=features_share,
            relations_share=relations_share,
        )  # fmt: skip

    def loss(self, module: nn.Module, batch: Batch, theirs: tuple[torch.Tensor, ...] | None = None) -> torch.Tensor:
        """How far the module's answers are from the teacher's and the labels: a scalar. Outputs that are not judged are taught too; the
        last one is features where they count. theirs: the teacher's answers, where they are at hand."""
        import torch

        total = torch.zeros(())
        ours, theirs = flat_outputs(module(*batch.inputs)), self.teacher(batch) if theirs is None else theirs
        for place, (answer, wanted) in enumerate(zip(ours, theirs, strict=True)):
            if place == self.training.output:
                total = total + self.distillation(answer.float(), wanted, batch.labels)
            elif self._taps and place == len(ours) - 1:
                total = total + self._of_features(answer.float(), wanted)
            elif answer.is_floating_point():
                total = total + distance(answer.float(), wanted)
        if self.sparsity:
            total = total + self.sparsity * torch.stack([scale.abs().sum() for scale in scales(module)]).sum()
        return total

    @property
    def _taps(self) -> bool:
        """Whether features are one more output."""
        return bool(self.features or self.relations)

    def _of_features(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        parts = [share * loss(ours, theirs) for share, loss in ((self.features, distance), (self.relations, relations)) if share]
        return parts[0] + sum(parts[1:])

    def learn(self, plan: Plan) -> list[float]:
        """Train; a killed training goes on from its checkpoint. Returns the loss by epoch."""
        return self._learn(plan, self.training.checkpoint)

    def learn_stage(self, plan: Plan, number: int, batches: Feed | None = None) -> None:
        """Train, as one of several stages that change the module in between: what a stage ended with outlives a kill in a later one.

        batches: what it is trained on, where that is not whole epochs of the train split.
        """
        import torch

        path = self.training.checkpoint
        done = path.with_name(f"{path.stem}.stage{number}{path.suffix}")
        if done.is_file():
            self.module.load_state_dict(torch.load(done, weights_only=True))
            return
        self._learn(plan, path.with_name(f"{path.stem}.part{number}{path.suffix}"), batches)
        save(self.module.state_dict(), done)

    def _learn(self, plan: Plan, checkpoint: Path, batches: Feed | None = None) -> list[float]:
        learner: Any = self.module
        if self._taps:
            asked: Any = self.teacher.module
            learner = features.tapped(self.module, width=asked.width if self.features else None, seed=plan.seed)
        plan = replace(plan, bfloat16=plan.bfloat16 or self.training.bfloat16)
        losses = fit(learner, self.batches if batches is None else batches, self.loss, plan, checkpoint=checkpoint)
        if batches is None:
            self.note(losses)
        if learner is not self.module:
            learner.tap.remove()
        return losses

    def note(self, losses: Sequence[float]) -> None:
        """Tell of a training, by the loss of each epoch."""
        if losses:
            self.notes.append(f"trained for {len(losses)} epochs, loss {losses[0]:.3g} in the first and {losses[-1]:.3g} in the last")

    def example(self) -> tuple[torch.Tensor, ...]:
        """A few samples of each input, [4, ...]: enough to trace with, and to see that it runs."""
        return self.batches.plain(4).inputs

    def export(self, folder: Path) -> Path:
        """The module as an exported program in `folder`. Raises ExportError."""
        path = folder / "model.pt2"
        signature = self.candidate.signature
        free = [[axis for axis, length in enumerate(spec.shape) if axis and length is None] for spec in signature.inputs]
        lower(self.module, self.example(), path, free_batch=signature.batch is None, free=free)
        checkpoint = self.training.checkpoint
        for stage in checkpoint.parent.glob(f"{checkpoint.stem}.stage*"):
            stage.unlink()
        return path

    def widths(self) -> WidthTable | None:
        """What layers of every width take in the runtime that counts, where that was measured."""
        path = self.training.widths
        return WidthTable.from_json(json.loads(path.read_text())) if path else None
