"""How near each operator comes to what the machine can do, and in one sentence what bounds a program.

The roofline (Williams, Waterman and Patterson, CACM 52:65, 2009): an operator cannot take less time than its arithmetic at the
machine's best rate, nor less than its bytes at the memory's best rate. Its reach is the longer of the two over the time that it
took. It may exceed 1 where the bytes were still in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.seams import OperatorTime
from .ceilings import Ceilings
from .node_costs import Cost

SMALL_SECONDS = 5e-6
"""An operator below it is mostly its own overhead: a call, a barrier between threads."""

_MOST = 0.5
_FAR = 0.3  # below this reach no limit of the machine explains the time
_NOUNS = {"Conv": "convolution", "ConvTranspose": "transposed convolution", "MatMul": "matrix product", "Gemm": "matrix product"}


@dataclass(frozen=True, kw_only=True)
class Rated:
    """An operator against the machine. share: of the time of all operators; reach: best possible time over its own, None where
    its cost is not known; bound: what the best possible time is due to, `compute` or `memory`."""

    operator: OperatorTime
    cost: Cost
    share: float
    reach: float | None = None
    bound: str = ""

    @property
    def intensity(self) -> float | None:
        """Operations for each byte."""
        flops, size = self.cost.flops, self.cost.size_bytes
        return flops / size if flops is not None and size else None

    def to_json(self) -> dict[str, Any]:
        o = self.operator
        return {
            "name": o.name, "kind": o.kind, "seconds": o.seconds, "share": self.share, "start_seconds": o.start_seconds,
            "nodes": list(o.nodes), "flops": self.cost.flops, "bytes": self.cost.size_bytes, "int8": self.cost.int8,
            "intensity": self.intensity, "bound": self.bound or None, "reach": self.reach,
        }  # fmt: skip


def rate(operators: Sequence[OperatorTime], costs: Sequence[Cost], ceilings: Ceilings) -> list[Rated]:
    """Each operator with its cost, against the ceilings of the machine."""
    whole = sum(operator.seconds for operator in operators)
    return [_rate(operator, cost, operator.seconds / whole, ceilings) for operator, cost in zip(operators, costs, strict=True)]


def _rate(operator: OperatorTime, cost: Cost, share: float, ceilings: Ceilings) -> Rated:
    if cost.flops is None or cost.size_bytes is None:
        return Rated(operator=operator, cost=cost, share=share)
    peak = ceilings.int8_per_second if cost.int8 and ceilings.int8_per_second else ceilings.float32_per_second
    computing, moving = cost.flops / peak, cost.size_bytes / ceilings.bytes_per_second
    bound = "compute" if computing > moving else "memory"
    return Rated(operator=operator, cost=cost, share=share, reach=max(computing, moving) / operator.seconds, bound=bound)


def verdict(rated: Sequence[Rated], call_seconds: float) -> str:
    """One sentence saying what bounds the program. call_seconds: of the fastest call without a profiler: load
    on the machine must not look like overhead."""
    inside = sum(r.operator.seconds for r in rated)
    small = [r for r in rated if r.operator.seconds < SMALL_SECONDS]
    tiny = sum(r.share for r in small)
    if inside < _MOST * call_seconds:
        return f"Overhead-bound: of a call only {_percent(inside / call_seconds)} is spent in its {_count(len(rated), 'operator')}."
    if tiny >= _MOST:
        return f"Overhead-bound: {_count(len(small), 'operator')} of under 5 µs each take {_percent(tiny)} of the time."
    noun, group = _dominant(rated)
    share = sum(r.share for r in group)
    start = f"{_percent(share)} of the time is in {_count(len(group), noun)}"
    known = [r for r in group if r.reach is not None]
    weight = sum(r.share for r in known)
    if weight < _MOST * share:
        return f"{start}; how much faster {'they' if len(group) > 1 else 'it'} could be is not known."
    reach = sum(r.share * (r.reach or 0.0) for r in known) / weight
    computing = sum(r.share for r in known if r.bound == "compute") >= weight / 2
    return f"{start}, which {'reach' if len(group) > 1 else 'reaches'} {_what(reach, computing)}"


def _what(reach: float, computing: bool) -> str:
    if reach < _FAR:
        return f"{_percent(reach)} of what this machine can do: bound by neither arithmetic nor memory, but by small or ill-suited work."
    if computing:
        return f"{_percent(reach)} of what this machine can do: compute-bound."
    if reach > 1:
        return "more than main memory gives, from caches: memory-bound."
    return f"{_percent(reach)} of what its memory gives: memory-bound."


def _dominant(rated: Sequence[Rated]) -> tuple[str, list[Rated]]:
    """The kind of operator that takes most of the time: its noun, and its operators."""
    groups: dict[str, list[Rated]] = {}
    for r in rated:
        groups.setdefault(_NOUNS.get(r.operator.kind, f"{r.operator.kind} operator"), []).append(r)
    return max(groups.items(), key=lambda item: sum(r.share for r in item[1]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
