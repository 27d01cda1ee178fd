"""Small weights become zero, more and more of them while the rest is trained: a smaller file, not a faster program."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..core.candidate import Candidate, Floor
from ..core.seams import Context, Forecast, Profile, Technique, option
from ..train.loop import Plan, fit
from ..train.student import Student, cannot_train

if TYPE_CHECKING:
    from torch import Tensor, nn

_RISING = 0.6  # share of the training in which zeros become more; in the rest the others settle
_GROUP = 4  # neighbours in a group or a block
_PATTERNS = ("unstructured", "blocks", "groups")


@dataclass(frozen=True, kw_only=True)
class MagnitudeSparsity(Technique):
    """Zeros by magnitude with a share that rises as a cubic (Zhu & Gupta 2017, arXiv:1710.01878, equation 1), projected after each step,
    so that a weight may come back. Layers compete by LAMP (Lee et al. 2021, arXiv:2010.07611), which needs no rates by layer.

    No runtime here computes a sparse model faster (docs/decisions/0022), so it is tried for size alone, where files are packed.
    """

    name: ClassVar[str] = "magnitude-sparsity"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    forbids: ClassVar[frozenset[str]] = frozenset({"sparse-weights"})
    adds: ClassVar[frozenset[str]] = frozenset({"sparse-weights"})
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    share: float = option(0.8, "Share of the weights that becomes zero.", choices=(0.8, 0.9), low=0.01, high=0.99)
    pattern: str = option(
        "unstructured",
        "unstructured; blocks (of 4 outputs that become zero together); groups (of 4 inputs, of which as many stay as the share "
        "says: 2 at 0.5, the pattern 2:4 of Mishra et al. 2021, arXiv:2104.08378).",
        choices=("unstructured",), allowed=_PATTERNS,
    )  # fmt: skip
    epochs: int = option(10, "Passes over the train split.", choices=(10,), low=0)
    learning_rate: float = option(1e-3, "At its highest.", low=0.0)
    alpha: float = option(0.7, "The teacher's share of the loss; the labels have the rest.", low=0.0, high=1.0)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if profile.objective != "size":
            return f"no runtime computes fewer products for zeros: nothing is won for {profile.objective}"
        return cannot_train(profile, "torch")

    def expects(self, profile: Profile) -> Forecast:
        smaller = 1 / (1.4 * (1 - self.share))  # the places of what is left cost bits too
        return Forecast(speedup=1.0, seconds=profile.training_seconds(self.epochs, 1.1), smaller=max(1.0, smaller), risk=self.share)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        student = Student.taught_in(context, candidate, alpha=self.alpha)
        plan = Plan(epochs=self.epochs, learning_rate=self.learning_rate, seed=context.seed)

        def after_step(done: float, loss: float) -> None:
            make_sparse(student.module, rising(done, self.share), self.pattern)

        checkpoint = student.training.checkpoint
        student.note(fit(student.module, student.batches, student.loss, plan, checkpoint=checkpoint, tell=after_step))
        make_sparse(student.module, self.share, self.pattern)
        return candidate.then(self.step(), student.export(context.folder), adds=self.adds, lossless=False, notes=student.notes)


def rising(done: float, share: float) -> float:
    """The share of zeros when `done` of the training is over."""
    return share * (1 - (1 - min(1.0, done / _RISING)) ** 3)


def make_sparse(module: nn.Module, share: float, pattern: str) -> None:
    """Let `share` of the weights of all convolutions and linear layers be zero, in place. A step of a group is rounded up to what stays."""
    import torch

    weights = _weights(module)
    if pattern == "groups":
        for weight in weights.values():
            _best_of_groups(weight, math.ceil(_GROUP * (1 - share) - 1e-9))
        return
    strengths = {name: _strength(weight, blocks=pattern == "blocks") for name, weight in weights.items()}
    scores = {name: _lamp(strength) for name, strength in strengths.items()}
    every = torch.cat([score.flatten() for score in scores.values()])
    count = round(share * len(every))
    if count == 0:
        return
    threshold = every.kthvalue(count).values
    for name, weight in weights.items():
        weight[_spread(scores[name] <= threshold, weight)] = 0


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """What is worth a zero, by layer: not depthwise convolutions, whose few weights see every pixel."""
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds) and getattr(layer, "groups", 1) == 1)
    return {name: layer.weight.data for name, layer in layers}


def _strength(weight: Tensor, *, blocks: bool) -> Tensor:
    """The square of each weight, or the mean over each block of outputs, [O or blocks, ...]."""
    square = weight.square()
    if not blocks or len(weight) % _GROUP:
        return square
    return square.reshape(-1, _GROUP, *square.shape[1:]).mean(1)


def _lamp(strength: Tensor) -> Tensor:
    """Each one's share of all that are at least as strong in its layer."""
    ordered, order = strength.flatten().sort()
    score = ordered / ordered.flip(0).cumsum(0).flip(0).clamp_min(1e-30)
    return score.new_empty(score.shape).scatter_(0, order, score).reshape(strength.shape)


def _spread(chosen: Tensor, weight: Tensor) -> Tensor:
    """What was chosen by block, for each weight."""
    return chosen if len(chosen) == len(weight) else chosen.repeat_interleave(_GROUP, 0)


def _best_of_groups(weight: Tensor, num_kept: int) -> None:
    """In each group of neighbouring inputs the largest stay; layers whose inputs are no multiple of a group stay as they are."""
    if weight.shape[1] % _GROUP:
        return
    moved = weight.movedim(1, -1)
    groups = moved.reshape(-1, _GROUP)
    order = groups.abs().argsort(-1, descending=True)
    weight.copy_(groups.scatter(-1, order[:, num_kept:], 0.0).reshape(moved.shape).movedim(-1, 1))
