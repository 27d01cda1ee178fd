"""What a student is taught: the labels, and what its teacher answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The teacher's answers and the labels (Hinton, Vinyals & Dean 2015, arXiv:1503.02531).

    temperature: softens both distributions, >= 1; alpha: the teacher's share of the loss, 0..1 (without labels it is 1); classifier:
    whether the output is scores of classes; otherwise the mean squared distance to the teacher counts, over its variance.
    """

    temperature: float = 3.0
    alpha: float = 0.7
    classifier: bool = True

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """student, teacher: the judged output, [n, classes] or [n, ...]; labels: [n]. Returns the mean loss, a scalar."""
        from torch.nn import functional

        if not self.classifier:
            return distance(student, teacher)
        t = self.temperature
        soft = functional.kl_div(
            functional.log_softmax(student / t, 1), functional.log_softmax(teacher / t, 1), reduction="batchmean", log_target=True
        )
        if labels is None or self.alpha == 1:
            return t * t * soft
        return self.alpha * t * t * soft + (1 - self.alpha) * functional.cross_entropy(student, labels)


def distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean squared distance over the teacher's variance: a scalar, 1 where the student always answers the mean."""
    from torch.nn import functional

    return functional.mse_loss(student, teacher) / teacher.var().clamp_min(1e-12)


def relations(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """How differently two sets of features [n, ...] of the same samples lie: a scalar, 0 where one is the other turned, moved or scaled.

    Relational knowledge distillation (Park et al. 2019, arXiv:1904.05068, equations 5 to 9): distances between samples over their mean,
    and twice (as there) the cosines of the angles that three samples make; Huber's loss. The features need not be as many.
    """
    import torch
    from torch.nn import functional

    ours, theirs = (_relations(features.flatten(1)) for features in (student, teacher))
    far, wide = (functional.smooth_l1_loss(a, b) for a, b in zip(ours, theirs, strict=True))
    return torch.add(far, wide, alpha=2)


def _relations(x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances between samples over their mean, [n, n], and the cosine of the angle at each between each two others, [n, n, n]."""
    import torch
    from torch.nn import functional

    apart_NND = x_ND.unsqueeze(0) - x_ND.unsqueeze(1)
    squares_NN = apart_NND.square().sum(-1)
    distances_NN = torch.where(squares_NN > 0, squares_NN.clamp_min(1e-12).sqrt(), 0.0)  # a root has no slope at 0
    mean = distances_NN.sum() / max(1, len(x_ND) * (len(x_ND) - 1))
    directions_NND = functional.normalize(apart_NND, dim=-1)
    return distances_NN / mean.clamp_min(1e-12), directions_NND @ directions_NND.mT
