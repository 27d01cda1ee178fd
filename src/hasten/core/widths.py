"""What a layer takes at every width, on one runtime and one machine: a table that prices a cut before it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

_UNKNOWN = 1e-11  # seconds of a multiply-add where nothing was measured: a slow kernel's


@dataclass(frozen=True, kw_only=True)
class Site:
    """A layer with widths, and where it stands. num_in, num_out: its channels; kernel, stride: [height, width]; size: of its input,
    [height, width]; depthwise: a filter for each channel; linear: a matrix over `size[0]` rows, without kernel."""

    num_in: int
    num_out: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    size: tuple[int, int] = (1, 1)
    depthwise: bool = False
    linear: bool = False

    @property
    def key(self) -> str:
        """The place without its widths: what a curve of the table is for."""
        kind = "linear" if self.linear else "depthwise" if self.depthwise else "conv"
        return f"{kind} {_by(self.kernel)} /{_by(self.stride)} on {_by(self.size)}"

    @property
    def operations(self) -> int:
        """Multiply-adds of one call."""
        rows = (self.size[0] // self.stride[0]) * (self.size[1] // self.stride[1])
        return rows * self.kernel[0] * self.kernel[1] * self.num_out * (1 if self.depthwise else self.num_in)

    @property
    def parameters(self) -> int:
        return self.kernel[0] * self.kernel[1] * self.num_out * (1 if self.depthwise else self.num_in)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Seconds of one place by its widths, measured along two lines that cross at the widest.

    widths_in, seconds_in: other inputs at the widest output; widths_out, seconds_out: other outputs at the widest input (for depthwise
    layers both are one). Widths ascend. In between a width costs what the next measured one costs: kernels fill their last block.
    """

    widths_in: tuple[int, ...]
    seconds_in: tuple[float, ...]
    widths_out: tuple[int, ...]
    seconds_out: tuple[float, ...]

    def seconds_at(self, width: int) -> float:
        """Along the line of outputs."""
        return _at(self.widths_out, self.seconds_out, width)

    def seconds(self, num_in: int, num_out: int) -> float:
        """At two widths: the product of what each line loses, as a kernel's two loops do."""
        across, along = _at(self.widths_in, self.seconds_in, num_in), _at(self.widths_out, self.seconds_out, num_out)
        return across * along / self.seconds_out[-1]


@dataclass(frozen=True, kw_only=True)
class WidthTable:
    """curves: by `Site.key`; overhead_seconds, scale: of a whole program: what it takes beside its layers, and how much slower or faster
    they are in it than alone; where: machine and runtime."""

    curves: Mapping[str, Curves]
    overhead_seconds: float = 0.0
    scale: float = 1.0
    where: Mapping[str, Any] = field(default_factory=dict)

    def seconds(self, site: Site) -> float:
        """Of one layer in a program; of one that was not measured a guess by its multiply-adds."""
        curve = self.curves.get(site.key)
        if curve is None:
            return self.scale * site.operations * _UNKNOWN
        return self.scale * (curve.seconds_at(site.num_out) if site.depthwise else curve.seconds(site.num_in, site.num_out))

    def total(self, sites: Iterable[Site]) -> float:
        """Of one call of a program with these layers."""
        return self.overhead_seconds + sum(self.seconds(site) for site in sites)

    def fitted(self, programs: Iterable[tuple[Iterable[Site], float]]) -> WidthTable:
        """The table after whole programs were timed: (layers, seconds) of a few of them. Least squares on relative errors."""
        alone = replace(self, overhead_seconds=0.0, scale=1.0)
        rows = [(1 / seconds, alone.total(sites) / seconds) for sites, seconds in programs]
        (overhead, scale), *_ = np.linalg.lstsq(np.array(rows), np.ones(len(rows)), rcond=None)
        return replace(self, overhead_seconds=max(0.0, float(overhead)), scale=float(scale))

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "curves": {key: vars(curve) for key, curve in self.curves.items()}, "where": dict(self.where)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WidthTable:
        curves = {key: Curves(**{name: tuple(numbers) for name, numbers in one.items()}) for key, one in value["curves"].items()}
        return cls(**{**value, "curves": curves})


def _at(widths: tuple[int, ...], seconds: tuple[float, ...], width: int) -> float:
    """Seconds at the least measured width that holds `width`."""
    return seconds[min(int(np.searchsorted(widths, width)), len(widths) - 1)]


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
