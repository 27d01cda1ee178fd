"""What a channel is worth, asked of the train split."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from ..core.need import need

if TYPE_CHECKING:
    from torch import nn

    from .student import Student

KINDS = ("taylor", "fisher", "magnitude", "magnitude-l1", "bn-scale", "activation")
_BATCHES = 8  # that are asked


def importance(kind: str, student: Student) -> Any:
    """One of Torch-Pruning's importances, ready to score groups of the student's module.

    Gradients of the loss are left in the module where they count. Estimates of what the loss changes (taylor, fisher) add up over the
    layers of a group and compare between groups; the others are relative to their group's mean.
    """
    found = need("torch_pruning", why="to prune").importance
    if kind in ("taylor", "fisher"):
        _gradients(student, squared=kind == "fisher")
        return found.GroupTaylorImportance(group_reduction="sum", normalizer=None)
    if kind == "bn-scale":
        return found.BNScaleImportance()
    if kind == "activation":
        return _activation(student, found.ActivationImportance(p=1))
    return found.GroupMagnitudeImportance(p=1 if kind == "magnitude-l1" else 2)


def scales(module: nn.Module) -> list[nn.Parameter]:
    """What batch normalisations multiply their channels by, [channels] each: near zero where a channel is not needed."""
    from torch import nn

    norms = (layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine)
    return [layer.weight for layer in norms]


def _gradients(student: Student, *, squared: bool) -> None:
    """Of the loss over a few batches, in `grad` of each parameter. squared: instead the parameter times its mean squared gradient, which
    makes of weight times gradient the second-order estimate with the Fisher diagonal (LeCun et al. 1990; Theis et al. 2018,
    arXiv:1801.05787)."""
    import torch

    module = student.module.eval()
    module.zero_grad(set_to_none=True)
    squares = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for batch in itertools.islice(student.batches.epoch(0), _BATCHES):
        with torch.autocast("cpu", torch.bfloat16, enabled=student.training.bfloat16):
            loss = student.loss(module, batch)
        torch.autograd.backward(loss)
        if squared:
            for name, p in module.named_parameters():
                if p.grad is not None:
                    squares[name] += p.grad.square() / _BATCHES
            module.zero_grad(set_to_none=True)
    for name, p in module.named_parameters():
        if squared:
            p.grad = squares[name] * p.detach()
        elif p.grad is None:
            p.grad = torch.zeros_like(p)


def _activation(student: Student, kind: Any) -> Any:
    """The mean size of what enters each layer, noted in the layers (Hu et al. 2016, arXiv:1607.03250, speak of zeros instead)."""
    with kind.compute_importance(student.module.eval()):
        for batch in itertools.islice(student.batches.epoch(0), 1):
            student.module(*batch.inputs)
    return kind
