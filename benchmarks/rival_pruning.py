"""What Torch-Pruning's own example does (its README and examples/cifar: a magnitude pruner with one ratio for all layers, then fine-tuning
on the labels; here with the optimiser of our own loop), as a technique, so that it is trained, exported, timed and judged like ours."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from hasten.core.candidate import Candidate, Floor
from hasten.core.seams import Context, Forecast, Profile, Technique, option
from hasten.train.batches import Batch
from hasten.train.loop import Plan, fit
from hasten.train.student import Student


@dataclass(frozen=True, kw_only=True)
class TorchPruningExample(Technique):
    """Uniform L2 pruning to a share of the parameters, and the same number of epochs on the labels alone."""

    name: ClassVar[str] = "torch-pruning-example"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    adds: ClassVar[frozenset[str]] = frozenset({"channels-pruned"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    share: float = option(0.5, "Share of the parameters that is cut.")
    epochs: int = option(10, "Passes over the train split after the cut.")

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return None

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=1.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        student = Student.taught_in(context, candidate, alpha=0.0)
        low, high = 0.0, 1.0
        for _ in range(10):
            ratio = (low + high) / 2
            tried = _pruned(student, ratio)
            gone = 1 - _count(tried) / _count(student.module)
            low, high = (ratio, high) if gone < self.share else (low, ratio)
        student.module = tried
        plan = Plan(epochs=self.epochs, learning_rate=1e-3, seed=context.seed, bfloat16=student.training.bfloat16)
        fit(student.module, student.batches, _cross_entropy, plan, checkpoint=student.training.checkpoint)
        return candidate.then(self.step(), student.export(context.folder), adds=self.adds, lossless=False)


def _pruned(student: Student, ratio: float) -> Any:
    import torch_pruning
    from torch import nn

    module = copy.deepcopy(student.module).eval()
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.MagnitudePruner(
        module, student.example(), importance=torch_pruning.importance.GroupMagnitudeImportance(), pruning_ratio=ratio, ignored_layers=last
    )  # fmt: skip
    pruner.step()
    return module


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _cross_entropy(module: Any, batch: Batch) -> Any:
    from torch.nn import functional

    assert batch.labels is not None
    return functional.cross_entropy(module(*batch.inputs).float(), batch.labels)
