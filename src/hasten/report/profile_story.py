"""What tables and pages say about a profile: the document of `hasten profile` as rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.units import format_seconds
from . import words

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """An operator, or all of one kind, as text. count: of operators; reach: share of what the machine can do."""

    name: str
    count: str
    time: str
    share: str
    flops: str
    size: str
    reach: str
    bound: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A runtime in one line. p95 is a dash where the runs own none; throughput: the best one, with its samples a call."""

    name: str
    latency: words.Shown
    p95: str
    memory: str
    throughput: str
    load: str


def summary(runtime: Record) -> Summary:
    """The numbers of one runtime."""
    p95, best = runtime["percentiles_seconds"].get("p95"), max(runtime["batches"], key=lambda b: b["throughput"]["value"], default=None)
    memory = runtime["memory"]
    return Summary(
        name=runtime["name"],
        latency=words.seconds(runtime["latency"]),
        p95=words.NONE if p95 is None else format_seconds(p95),
        memory=words.size(max(0, memory["peak_bytes"] - memory["before_bytes"])),
        throughput=words.NONE if best is None else f"{words.rate(best['throughput']).value} at {best['batch_size']}",
        load=format_seconds(memory["loaded_seconds"]),
    )


def kinds(operators: Sequence[Record]) -> list[Part]:
    """The operators by kind, the dearest first."""
    groups: dict[str, list[Record]] = {}
    for operator in operators:
        groups.setdefault(operator["kind"], []).append(operator)
    ordered = sorted(groups.items(), key=lambda item: -sum(o["seconds"] for o in item[1]))
    return [_part(kind, group) for kind, group in ordered]


def dearest(operators: Sequence[Record], limit: int) -> list[Part]:
    """The `limit` operators that take longest, the dearest first; each with its kind."""
    return [_part(f"{o['name']} ({o['kind']})", [o]) for o in sorted(operators, key=lambda o: -o["seconds"])[:limit]]


def _part(name: str, group: Sequence[Record]) -> Part:
    seconds = sum(o["seconds"] for o in group)
    known = [o for o in group if o["reach"] is not None]
    spent = sum(o["seconds"] for o in known)
    reach = sum(o["reach"] * o["seconds"] for o in known) / spent if spent else None
    bounds = {bound: sum(o["seconds"] for o in known if o["bound"] == bound) for bound in ("compute", "memory")}
    return Part(
        name=name,
        count=f"{len(group):,}",
        time=format_seconds(seconds),
        share=f"{100 * sum(o['share'] for o in group):.1f} %",
        flops=_flops(_sum(group, "flops")),
        size=words.size(_sum(group, "bytes")),
        reach=words.NONE if reach is None else f"{100 * reach:.0f} %",
        bound=max(bounds, key=bounds.__getitem__) if known else "",
    )


def _sum(group: Sequence[Record], key: str) -> float | None:
    values = [o[key] for o in group]
    return None if None in values else sum(values)


def _flops(count: float | None) -> str:
    if count is None:
        return words.NONE
    unit, scale = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if count >= s), ("", 1.0))
    return f"{count / scale:.3g} {unit}".strip()
