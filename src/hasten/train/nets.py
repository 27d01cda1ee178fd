"""Small networks built to a task's input: what a student can be that is no part of its teacher."""

from __future__ import annotations

import functools
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import NotPossibleHere
from .lift import lower, read_module

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

KINDS = ("resnet", "mobilenet", "mlp")


def build(kind: str, example: Sequence[torch.Tensor], num_out: int, *, width: int, depth: int, seed: int) -> fx.GraphModule:
    """An untrained network for inputs like `example`, [n, ...], with one output [n, num_out].

    kind: one of KINDS; width: channels of the first stage, each later one has twice as many; depth: blocks a stage. Raises
    NotPossibleHere where the kind does not fit the input.
    """
    import torch

    if len(example) != 1 or not example[0].is_floating_point() or (kind != "mlp" and example[0].ndim != 4):
        raise NotPossibleHere("distillation", f"can build a {kind} for one input of pictures only", hint="Let the student be a copy (same)")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _MAKERS[kind](tuple(example[0].shape[1:]), num_out, width, depth).eval()
    return lifted(network, example)


def lifted(network: nn.Module, example: Sequence[torch.Tensor]) -> fx.GraphModule:
    """Any network, as techniques train them. Raises ExportError."""
    with tempfile.TemporaryDirectory(prefix="hasten-student-") as scratch:
        lower(network, example, Path(scratch) / "student.pt2", free_batch=True)
        return read_module(Path(scratch) / "student.pt2")


def _resnet(shape: tuple[int, ...], num_out: int, width: int, depth: int) -> nn.Module:
    """He et al. 2015 (arXiv:1512.03385), of two stages, at half of the pictures' resolution."""
    from torch import nn

    conv, residual, pool = _convolution(), _residual(), _mean()
    stages = [residual(width * (1 + (n >= depth)), width * (1 + (n >= depth))) for n in range(2 * depth)]
    stages.insert(depth, conv(width, 2 * width, 3, 2))
    return nn.Sequential(conv(shape[0], width, 3, 2), *stages, pool(), nn.Linear(2 * width, num_out))


def _mobilenet(shape: tuple[int, ...], num_out: int, width: int, depth: int) -> nn.Module:
    """Howard et al. 2017 (arXiv:1704.04861): depthwise 3 x 3, then 1 x 1, of three stages."""
    from torch import nn

    conv, pool = _convolution(), _mean()
    layers, now = [conv(shape[0], width, 3, 2)], width
    for number in range(3):
        for place in range(depth):
            after = width << (number + 1) if place == 0 else now
            layers += [conv(now, now, 3, 2 if place == 0 and number else 1, now), conv(now, after, 1)]
            now = after
    return nn.Sequential(*layers, pool(), nn.Linear(now, num_out))


def _mlp(shape: tuple[int, ...], num_out: int, width: int, depth: int) -> nn.Module:
    from torch import nn

    sizes = [math.prod(shape), *[width] * depth]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], num_out))


_MAKERS: dict[str, Callable[[tuple[int, ...], int, int, int], Any]] = {"resnet": _resnet, "mobilenet": _mobilenet, "mlp": _mlp}


def _convolution() -> Callable[..., nn.Module]:
    from torch import nn

    def make(num_in: int, num_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
        conv = nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(num_out), nn.ReLU())

    return make


@functools.cache
def _residual() -> type[nn.Module]:
    import torch
    from torch import nn

    class Residual(nn.Module):
        """Two 3 x 3 convolutions beside a shortcut."""

        def __init__(self, width: int, inside: int) -> None:
            super().__init__()
            self.first, self.second = _convolution()(width, inside, 3), nn.Conv2d(inside, width, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.norm(self.second(self.first(x))))

    return Residual


@functools.cache
def _mean() -> type[nn.Module]:
    from torch import nn

    class Mean(nn.Module):
        """Over the picture."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    return Mean
