"""Small networks built to a task's input from a description: what a student can be that is no part of its teacher.

A description is unrolled into blocks whose layers are `Site`s: a network is built of them and priced by them, so that what a table says of
a description is said of the network.
"""

from __future__ import annotations

import functools
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import NotPossibleHere
from ..core.widths import Site
from .attention import HEAD, Transformer, seeing
from .lift import lower, read_module

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

PICTURES = ("resnet", "mobilenet", "mobilenetv2", "efficientnet-lite", "vit")
KINDS = (*PICTURES, "mlp", "encoder")
BLOCKS = ("plain", "residual", "inverted", "separable")
_SQUEEZED = 4  # times fewer channels inside a squeeze-and-excitation
_LEAST_SIDE = 4  # of a picture: one that is no larger is not halved any more
_MOST_TOKENS = 64  # that a picture is taken apart into: 7 x 7 of 28 x 28 and of 224 x 224 points
_LEAST_STEM = 16  # channels of a transformer's first convolution
_INVERTED = {  # stages after the first: how many times its width, kernel, stride (Sandler et al. 2018, table 2; Tan & Le 2019, table 1)
    "mobilenetv2": ((1.5, 3, 2), (2.0, 3, 2), (4.0, 3, 2), (6.0, 3, 1), (10.0, 3, 2)),
    "efficientnet-lite": ((1.5, 3, 2), (2.5, 5, 2), (5.0, 3, 2), (7.0, 5, 1), (12.0, 5, 2)),
}


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


@dataclass(frozen=True, kw_only=True)
class VisionTransformer:
    """For pictures [C, H, W]: convolutions of stride 2 whose last gives the tokens, learnt positions, blocks, the mean, one linear layer
    (TinyViT without its windows: Wu et al. 2022, arXiv:2207.10666)."""

    stem: ConvNet
    blocks: Transformer

    @property
    def text(self) -> str:
        return f"{self.stem.text}, {self.blocks.text}"


Architecture = ConvNet | Perceptron
"""What may be searched for."""

Description = Architecture | VisionTransformer | Transformer
"""What may be built; a transformer alone is one for text, which `texts.build` builds."""


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


def described(kind: str, *, width: int, depth: int, shape: tuple[int, ...]) -> Description:
    """One of KINDS. width: channels of the first stage (numbers of a token of vit and encoder, up to the next multiple of a head; all
    layers of an mlp); depth: blocks a stage; shape: of the inputs, without the batch.

    resnet: two stages at half of the pictures' resolution, the second twice as wide; mobilenet: three, each twice as wide as the last;
    mobilenetv2, efficientnet-lite: the stages of their papers, six times as wide inside, the second with filters of 5 x 5 too, with ReLU,
    no squeeze, and one 1 x 1 convolution for what follows the last stride; pictures are halved while they have more than 4 points a side.
    """
    if kind == "mlp":
        return Perceptron(widths=(width,) * depth)
    if kind in ("vit", "encoder"):
        blocks = Transformer(width=-(-width // HEAD) * HEAD, depth=depth)
        return blocks if kind == "encoder" else VisionTransformer(stem=_tokens(blocks.width, shape), blocks=blocks)
    if kind == "resnet":
        halves = (Stage(kind="residual", width=w, depth=depth) for w in (width, 2 * width))
        first, second = halves
        return ConvNet(stem=width, stem_stride=2, stages=(first, Stage(kind="plain", width=2 * width, stride=2), second))
    if kind in _INVERTED:
        return ConvNet(stem=2 * width, stem_stride=2, stages=tuple(_inverted(kind, width, depth, -(-min(shape[1:]) // 2))))
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


def sites(architecture: Description, shape: tuple[int, ...], num_out: int) -> list[Site]:
    """Every layer that has widths, for inputs of `shape` without the batch: what it is priced by."""
    if isinstance(architecture, Perceptron):
        return [Site(num_in=a, num_out=b, linear=True) for a, b in _pairs(architecture, shape, num_out)]
    if isinstance(architecture, Transformer):
        return [*architecture.sites(shape[0]), Site(num_in=architecture.width, num_out=num_out, linear=True)]
    blocks = unrolled(_convolutions(architecture), shape)
    last = blocks[-1].path[-1]
    after_them = architecture.blocks.sites(math.prod(after(last))) if isinstance(architecture, VisionTransformer) else []
    head = Site(num_in=last.num_out, num_out=num_out, linear=True)
    return [*(site for block in blocks for site in block.sites), *after_them, head]


def after(site: Site) -> tuple[int, int]:
    """The size of the picture that leaves a convolution."""
    height, width = ((n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(site.size, site.kernel, site.stride, strict=True))
    return height, width


def build(architecture: Architecture | VisionTransformer, example: Sequence[torch.Tensor], num_out: int, *, seed: int) -> fx.GraphModule:
    """An untrained network for inputs like `example`, [n, ...], with one output [n, num_out], in evaluation mode.

    Raises NotPossibleHere where the description does not fit the input.
    """
    import torch
    from torch import fx

    pictures = not isinstance(architecture, Perceptron)
    if len(example) != 1 or not example[0].is_floating_point() or (pictures and example[0].ndim != 4):
        what = "pictures" if pictures else "numbers"
        raise NotPossibleHere("student", f"can be built for one input of {what} only", hint="Let the student be a copy (same)")
    shape = tuple(example[0].shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(architecture, shape, num_out)
    return fx.symbolic_trace(network).eval()


def lifted(network: nn.Module, example: Sequence[torch.Tensor]) -> fx.GraphModule:
    """Any network, as techniques train them. Raises ExportError."""
    with tempfile.TemporaryDirectory(prefix="hasten-student-") as scratch:
        lower(network, example, Path(scratch) / "student.pt2", free_batch=True)
        return read_module(Path(scratch) / "student.pt2")


# Descriptions ---------------------------------------------------------------------------------------------------------


def _inverted(kind: str, width: int, depth: int, side: int) -> Iterator[Stage]:
    """The stages of a network of inverted blocks for pictures of `side` points. The first of them is not wider inside, which is a separable
    block; what follows the last stride is one 1 x 1 convolution."""
    yield Stage(kind="separable", width=width, depth=depth)
    for times, kernel, stride in _INVERTED[kind]:
        stride = stride if side > _LEAST_SIDE else 1
        side = -(-side // stride)
        yield Stage(kind="inverted", width=-(-round(times * width) // 8) * 8, depth=depth, kernel=kernel, stride=stride, expansion=6.0)
    yield Stage(kind="plain", width=20 * width, kernel=1)


def _tokens(width: int, shape: tuple[int, ...]) -> ConvNet:
    """Convolutions after which a picture has no more than so many points, each of `width` numbers: halved as often as that takes, and
    twice as wide each time."""
    sizes = [shape[1:]]
    while math.prod(sizes[-1]) > _MOST_TOKENS:
        sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
    halvings = len(sizes) - 1
    first, *others = (min(width, max(_LEAST_STEM, width >> left)) for left in range(max(1, halvings) - 1, -1, -1))
    stages = tuple(Stage(kind="plain", width=one, stride=2) for one in others)
    return ConvNet(stem=first, stem_stride=2 if halvings else 1, stages=stages)


def _convolutions(architecture: ConvNet | VisionTransformer) -> ConvNet:
    return architecture.stem if isinstance(architecture, VisionTransformer) else architecture


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


def _network(architecture: Architecture | VisionTransformer, shape: tuple[int, ...], num_out: int) -> nn.Module:
    if isinstance(architecture, Perceptron):
        return _mlp(architecture, shape, num_out)
    return _convnet(architecture, shape, num_out) if isinstance(architecture, ConvNet) else _vit(architecture, shape, num_out)


def _vit(architecture: VisionTransformer, shape: tuple[int, ...], num_out: int) -> nn.Module:
    from torch import nn

    *before, last = unrolled(architecture.stem, shape)
    stem = nn.Sequential(*(_path(block) for block in before), _path(replace(last, linear_end=True)))
    return seeing(architecture.blocks, stem, math.prod(after(last.path[-1])), num_out)


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
