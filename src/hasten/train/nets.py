"""Small networks built to a task's input from a description: what a student can be that is no part of its teacher.

A description is unrolled into blocks whose layers are `Site`s: a network is built of them and priced by them, so that what a table says of
a description is said of the network.
"""

from __future__ import annotations

import functools
import itertools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import NotPossibleHere
from ..core.widths import Site
from .lift import lower, read_module

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

KINDS = ("resnet", "mobilenet", "mlp")
BLOCKS = ("plain", "residual", "inverted", "separable")
_SQUEEZED = 4  # times fewer channels inside a squeeze-and-excitation


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Blocks of one kind in a row.

    kind: plain (one convolution), residual (two beside a shortcut: He et al. 2015, arXiv:1512.03385), inverted (1 x 1 out, depthwise,
    1 x 1 back: Sandler et al. 2018, arXiv:1801.04381) or separable (depthwise, then 1 x 1: Howard et al. 2017, arXiv:1704.04861);
    width: channels that leave a block; depth: blocks; kernel: side of the filters that are not 1 x 1; stride: of the first block;
    expansion: channels inside a block over those that leave a residual one or enter an inverted one, at most `most_inside`;
    squeeze: channels are weighted by what all of the picture says (Hu et al. 2018, arXiv:1709.01507).
    """

    kind: str
    width: int
    depth: int = 1
    kernel: int = 3
    stride: int = 1
    expansion: float = 1.0
    most_inside: int = 1 << 16
    squeeze: bool = False

    @property
    def text(self) -> str:
        """`2 inverted 48 5x5 /2 e4`."""
        parts = [f"{self.depth} {self.kind} {self.width} {self.kernel}x{self.kernel}"]
        parts += [f"/{self.stride}"] if self.stride > 1 else []
        parts += [f"e{self.expansion:g}"] if self.kind in ("residual", "inverted") else []
        return " ".join([*parts, "squeezed"] if self.squeeze else parts)


@dataclass(frozen=True, kw_only=True)
class ConvNet:
    """For pictures [C, H, W]: the stem, the stages, the mean, one linear layer. stem, stem_stride: channels and stride of the first
    convolution."""

    stem: int
    stem_stride: int
    stages: tuple[Stage, ...]

    @property
    def text(self) -> str:
        return ", ".join([f"stem {self.stem} /{self.stem_stride}", *(stage.text for stage in self.stages if stage.depth)])


@dataclass(frozen=True, kw_only=True)
class Perceptron:
    """For anything, taken as one row of numbers. widths: of the hidden layers."""

    widths: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"hidden {' '.join(map(str, self.widths))}"


Architecture = ConvNet | Perceptron


@dataclass(frozen=True, kw_only=True)
class Block:
    """path: layers one after the other, each normalised and, but for the last where `linear_end`, followed by a ReLU; shortcut: layers
    beside the path (none: what came in), None for no shortcut; squeeze: the two layers of a squeeze-and-excitation at the path's end;
    active: whether a ReLU follows the sum."""

    path: tuple[Site, ...]
    shortcut: tuple[Site, ...] | None = None
    squeeze: tuple[Site, ...] = ()
    linear_end: bool = False
    active: bool = False

    @property
    def sites(self) -> list[Site]:
        """What it costs. A squeeze reads its picture twice more: as much as two depthwise layers of one point."""
        end = self.path[-1]
        read = Site(num_in=end.num_out, num_out=end.num_out, size=after(end), depthwise=True)
        return [*self.path, *(self.shortcut or ()), *self.squeeze, *([read, read] if self.squeeze else [])]


def described(kind: str, *, width: int, depth: int) -> Architecture:
    """One of KINDS. width: channels of the first stage (of all layers of an mlp); depth: blocks a stage.

    resnet: two stages at half of the pictures' resolution, the second twice as wide; mobilenet: three, each twice as wide as the last.
    """
    if kind == "mlp":
        return Perceptron(widths=(width,) * depth)
    if kind == "resnet":
        halves = (Stage(kind="residual", width=w, depth=depth) for w in (width, 2 * width))
        first, second = halves
        return ConvNet(stem=width, stem_stride=2, stages=(first, Stage(kind="plain", width=2 * width, stride=2), second))
    stages = (Stage(kind="separable", width=width << n, depth=depth, stride=2 if n > 1 else 1) for n in (1, 2, 3))
    return ConvNet(stem=width, stem_stride=2, stages=tuple(stages))


def unrolled(architecture: ConvNet, shape: tuple[int, ...]) -> list[Block]:
    """Its blocks for pictures of `shape`, [C, H, W], the stem first."""
    stride = architecture.stem_stride
    kernel = max(3, stride + 1)  # every point of the picture is read
    blocks = [Block(path=(_conv(shape[0], architecture.stem, kernel, stride, (shape[1], shape[2])),))]
    for stage in architecture.stages:
        for number in range(stage.depth):
            last = blocks[-1].path[-1]
            blocks.append(_block(stage, last.num_out, stage.stride if number == 0 else 1, after(last)))
    return blocks


def sites(architecture: Architecture, shape: tuple[int, ...], num_out: int) -> list[Site]:
    """Every layer that has widths, for inputs of `shape` without the batch: what it is priced by."""
    if isinstance(architecture, Perceptron):
        return [Site(num_in=a, num_out=b, linear=True) for a, b in _pairs(architecture, shape, num_out)]
    blocks = unrolled(architecture, shape)
    head = Site(num_in=blocks[-1].path[-1].num_out, num_out=num_out, linear=True)
    return [*(site for block in blocks for site in block.sites), head]


def after(site: Site) -> tuple[int, int]:
    """The size of the picture that leaves a convolution."""
    height, width = ((n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(site.size, site.kernel, site.stride, strict=True))
    return height, width


def build(architecture: Architecture, example: Sequence[torch.Tensor], num_out: int, *, seed: int) -> fx.GraphModule:
    """An untrained network for inputs like `example`, [n, ...], with one output [n, num_out], in evaluation mode.

    Raises NotPossibleHere where the description does not fit the input.
    """
    import torch
    from torch import fx

    pictures = isinstance(architecture, ConvNet)
    if len(example) != 1 or not example[0].is_floating_point() or (pictures and example[0].ndim != 4):
        what = "pictures" if pictures else "numbers"
        raise NotPossibleHere("student", f"can be built for one input of {what} only", hint="Let the student be a copy (same)")
    shape = tuple(example[0].shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _convnet(architecture, shape, num_out) if isinstance(architecture, ConvNet) else _mlp(architecture, shape, num_out)
    return fx.symbolic_trace(network).eval()


def lifted(network: nn.Module, example: Sequence[torch.Tensor]) -> fx.GraphModule:
    """Any network, as techniques train them. Raises ExportError."""
    with tempfile.TemporaryDirectory(prefix="hasten-student-") as scratch:
        lower(network, example, Path(scratch) / "student.pt2", free_batch=True)
        return read_module(Path(scratch) / "student.pt2")


# Blocks as layers -----------------------------------------------------------------------------------------------------


def _block(stage: Stage, num_in: int, stride: int, size: tuple[int, int]) -> Block:
    width, kernel = stage.width, stage.kernel
    same = stride == 1 and num_in == width
    if stage.kind == "plain":
        return _squeezed(stage, Block(path=(_conv(num_in, width, kernel, stride, size),)))
    if stage.kind == "separable":
        deep = _deep(num_in, kernel, stride, size)
        return _squeezed(stage, Block(path=(deep, _conv(num_in, width, 1, 1, after(deep)))))
    if stage.kind == "inverted":
        inside = _inside(stage, num_in)
        out, deep = _conv(num_in, inside, 1, 1, size), _deep(inside, kernel, stride, size)
        back = _conv(inside, width, 1, 1, after(deep))
        return _squeezed(stage, Block(path=(out, deep, back), shortcut=() if same else None, linear_end=True))
    first = _conv(num_in, _inside(stage, width), kernel, stride, size)
    path = (first, _conv(first.num_out, width, kernel, 1, after(first)))
    shortcut = () if same else (_conv(num_in, width, 1, stride, size),)
    return _squeezed(stage, Block(path=path, shortcut=shortcut, linear_end=True, active=True))


def _inside(stage: Stage, width: int) -> int:
    return max(1, min(round(stage.expansion * width), stage.most_inside))


def _squeezed(stage: Stage, block: Block) -> Block:
    if not stage.squeeze:
        return block
    inside = max(4, stage.width // _SQUEEZED)
    pair = (_conv(stage.width, inside, 1, 1, (1, 1)), _conv(inside, stage.width, 1, 1, (1, 1)))
    return Block(path=block.path, shortcut=block.shortcut, squeeze=pair, linear_end=block.linear_end, active=block.active)


def _conv(num_in: int, num_out: int, kernel: int, stride: int, size: tuple[int, int]) -> Site:
    return Site(num_in=num_in, num_out=num_out, kernel=(kernel, kernel), stride=(stride, stride), size=size)


def _deep(width: int, kernel: int, stride: int, size: tuple[int, int]) -> Site:
    """Depthwise: a filter for each channel; of one channel the same as any other convolution."""
    return Site(num_in=width, num_out=width, kernel=(kernel, kernel), stride=(stride, stride), size=size, depthwise=width > 1)


def _pairs(architecture: Perceptron, shape: tuple[int, ...], num_out: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise([math.prod(shape), *architecture.widths, num_out]))


# Layers as modules ----------------------------------------------------------------------------------------------------


def _convnet(architecture: ConvNet, shape: tuple[int, ...], num_out: int) -> nn.Module:
    from torch import nn

    blocks = unrolled(architecture, shape)
    made = [_path(b) if b.shortcut is None and not b.squeeze else _beside()(b) for b in blocks]
    return nn.Sequential(*made, _mean()(), nn.Linear(blocks[-1].path[-1].num_out, num_out))


def _mlp(architecture: Perceptron, shape: tuple[int, ...], num_out: int) -> nn.Module:
    from torch import nn

    *hidden, last = (nn.Linear(a, b) for a, b in _pairs(architecture, shape, num_out))
    return nn.Sequential(nn.Flatten(), *(layer for one in hidden for layer in (one, nn.ReLU())), last)


def _path(block: Block) -> nn.Module:
    from torch import nn

    layers: list[nn.Module] = []
    for number, site in enumerate(block.path):
        layers += [_convolution(site), nn.BatchNorm2d(site.num_out)]
        if not block.linear_end or number < len(block.path) - 1:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _convolution(site: Site, *, bias: bool = False) -> nn.Conv2d:
    from torch import nn

    padding = (site.kernel[0] // 2, site.kernel[1] // 2)
    groups = site.num_in if site.depthwise else 1
    return nn.Conv2d(site.num_in, site.num_out, site.kernel, site.stride, padding, groups=groups, bias=bias)


@functools.cache
def _beside() -> type[nn.Module]:
    import torch
    from torch import nn

    class Beside(nn.Module):
        """A path, weighted by channel where it is squeezed, beside a shortcut where there is one."""

        def __init__(self, block: Block) -> None:
            super().__init__()
            self.path, self.has_shortcut, self.active = _path(block), block.shortcut is not None, block.active
            self.projection = nn.Sequential(*(m for s in block.shortcut or () for m in (_convolution(s), nn.BatchNorm2d(s.num_out))))
            inner, outer = (_convolution(s, bias=True) for s in block.squeeze) if block.squeeze else (None, None)
            self.squeeze = None if inner is None else nn.Sequential(inner, nn.ReLU(), outer, nn.Sigmoid())  # type: ignore[arg-type]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.path(x)
            if self.squeeze is not None:
                y = y * self.squeeze(y.mean((2, 3), keepdim=True))
            if self.has_shortcut:
                y = y + self.projection(x)
            return torch.relu(y) if self.active else y

    return Beside


@functools.cache
def _mean() -> Any:
    from torch import nn

    class Mean(nn.Module):
        """Over the picture."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    return Mean
