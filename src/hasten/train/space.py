"""Which networks an architecture search may propose, and what fits under a price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.widths import Site, WidthTable
from .nets import BLOCKS, Architecture, ConvNet, Perceptron, Stage, sites

_STEP = 8  # between widths
_STAGES, _DEPTH, _KERNELS = 3, 3, (3, 5)
_EXPANSIONS: Mapping[str, tuple[float, float]] = {"residual": (0.5, 1.0), "inverted": (2.0, 4.0)}  # narrow, wide
_SIDE = 28  # of the picture that enters the first stage, at most
_SHRINK = 0.95  # from one narrower copy of a network to the next


@dataclass(frozen=True, kw_only=True)
class Space:
    """Networks for one input of `shape` (without the batch: pictures [C, H, W], or anything else as one row of numbers) with one output of
    `num_out` numbers. widest: channels of a stage, at most; squeeze: whether stages may be squeezed.

    Pictures: a stem of stride 2 or more and up to three stages, each of its own kind, width, depth and kernel, every one but the first at
    half of the resolution. Rows: up to three hidden layers.
    """

    shape: tuple[int, ...]
    num_out: int
    widest: int = 96
    squeeze: bool = False

    @property
    def pictures(self) -> bool:
        return len(self.shape) == 3

    def propose(self, trial: Any) -> Architecture:
        """The network of an Optuna trial. Every trial is asked the same questions, whether the answer counts or not."""
        if not self.pictures:
            widths = [trial.suggest_int(f"width{n}", _STEP, self.widest, step=_STEP) for n in range(_DEPTH)]
            return Perceptron(widths=tuple(widths[: trial.suggest_int("depth", 1, _DEPTH)]))
        stride = trial.suggest_categorical("stem_stride", self._strides)
        stem = trial.suggest_int("stem", _STEP, self._widest_stem, step=_STEP)
        return ConvNet(stem=stem, stem_stride=stride, stages=tuple(self._stage(trial, n) for n in range(_STAGES)))

    def first(self) -> Iterator[dict[str, Any]]:
        """Questions answered by hand, to begin with: of each kind of block one network that gets wider as pictures get smaller; of rows, of
        each depth the widest."""
        if not self.pictures:
            yield from ({"depth": depth, **{f"width{n}": self.widest for n in range(_DEPTH)}} for depth in range(1, _DEPTH + 1))
            return
        for kind in BLOCKS:
            stages = [
                {f"kind{n}": kind, f"width{n}": self._rounded(self.widest * (n + 1) / _STAGES), f"depth{n}": 1, f"kernel{n}": 3,
                 f"wide{n}": True, **({f"squeeze{n}": False} if self.squeeze else {})}
                for n in range(_STAGES)
            ]  # fmt: skip
            yield {"stem_stride": self._strides[0], "stem": min(2 * _STEP, self._widest_stem)} | {
                k: v for s in stages for k, v in s.items()
            }

    def fitted(self, architecture: Architecture, table: WidthTable, most_seconds: float) -> Architecture | None:
        """The network, or the widest of its narrower copies that costs at most `most_seconds` by the table; None where none does."""
        factor = 1.0
        while True:
            narrower = self._narrowed(architecture, factor)
            if table.total(self.sites(narrower)) <= most_seconds:
                return narrower
            if factor * self.widest < _STEP:
                return None
            factor *= _SHRINK

    def sites(self, architecture: Architecture) -> list[Site]:
        """Its layers."""
        return sites(architecture, self.shape, self.num_out)

    def places(self) -> tuple[Site, ...]:
        """Every place where a layer of any of its networks may stand, as wide as it may be there."""
        return tuple(dict.fromkeys(site for architecture in self._corners() for site in self.sites(architecture)))

    def _corners(self) -> Iterator[Architecture]:
        """The widest networks of each kind."""
        if not self.pictures:
            yield Perceptron(widths=(self.widest,) * _DEPTH)
            return
        for stride in self._strides:
            for kind in BLOCKS:
                for kernel in _kernels(kind):
                    stage = Stage(
                        kind=kind, width=self.widest, depth=2, kernel=kernel, squeeze=self.squeeze, **self._inner(kind, wide=True)
                    )
                    stages = (stage, *(replace(stage, stride=2) for _ in range(1, _STAGES)))
                    yield ConvNet(stem=self.widest, stem_stride=stride, stages=stages)

    @property
    def _strides(self) -> tuple[int, ...]:
        """Powers of two: the least after which a picture is at most 28 points wide, and the one after it."""
        least = 2
        while max(self.shape[1:]) > _SIDE * least:
            least *= 2
        return least, 2 * least

    @property
    def _widest_stem(self) -> int:
        return max(_STEP, self._rounded(self.widest / 2))

    def _stage(self, trial: Any, number: int) -> Stage:
        kind = trial.suggest_categorical(f"kind{number}", BLOCKS)
        width = trial.suggest_int(f"width{number}", _STEP, self.widest, step=_STEP)
        depth = trial.suggest_int(f"depth{number}", 0 if number == _STAGES - 1 else 1, _DEPTH)
        kernel, wide = trial.suggest_categorical(f"kernel{number}", _KERNELS), trial.suggest_categorical(f"wide{number}", (True, False))
        squeeze = self.squeeze and trial.suggest_categorical(f"squeeze{number}", (True, False))
        kernel = kernel if kernel in _kernels(kind) else _KERNELS[0]
        stride = 2 if number else 1
        return Stage(kind=kind, width=width, depth=depth, kernel=kernel, stride=stride, squeeze=squeeze, **self._inner(kind, wide=wide))

    def _inner(self, kind: str, *, wide: bool) -> dict[str, Any]:
        """What lies inside a block: at most twice the widest, which is how far layers are priced."""
        return {"expansion": _EXPANSIONS[kind][wide], "most_inside": 2 * self.widest} if kind in _EXPANSIONS else {}

    def _narrowed(self, architecture: Architecture, factor: float) -> Architecture:
        if isinstance(architecture, Perceptron):
            return Perceptron(widths=tuple(self._rounded(factor * w) for w in architecture.widths))
        stages = tuple(replace(stage, width=self._rounded(factor * stage.width)) for stage in architecture.stages)
        return replace(architecture, stem=self._rounded(factor * architecture.stem), stages=stages)

    @staticmethod
    def _rounded(width: float) -> int:
        return max(_STEP, int(width / _STEP + 1e-9) * _STEP)


def _kernels(kind: str) -> tuple[int, ...]:
    """Wide filters are for depthwise layers: dense ones cost as much more as they are larger."""
    return _KERNELS if kind in ("inverted", "separable") else _KERNELS[:1]
