"""The pictures of a profile: the roofline, memory over time, and how latency and throughput scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .plots import _ACCENT, _INK, _LIMIT, _MUTED, _SOFT, Size, _canvas, _svg

Record = Mapping[str, Any]
_ORDER = (_ACCENT, _INK, _LIMIT, _MUTED, _SOFT)  # of the runtimes, the fastest first
_LINE_POINTS = 13.0  # between two names


def roofline(profile: Record, size: Size) -> str:
    """Each operator of the fastest runtime: operations a byte against operations a second, under the machine's roofs. A dot's
    area is its share of the time. Empty where no operator's cost is known."""
    runtime = profile["runtimes"][0]
    known = [o for o in runtime["operators"] if o["intensity"] and o["flops"]]
    if not known:
        return ""
    ceilings = profile["ceilings"]
    figure, (ax,) = _canvas(size, 1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    x, y = [o["intensity"] for o in known], [o["flops"] / o["seconds"] / 1e9 for o in known]
    peaks = [("float32", ceilings["float32_per_second"]), ("int8", ceilings["int8_per_second"])]
    wide = np.geomspace(min(x) / 2, max(*x, peaks[0][1] / ceilings["bytes_per_second"]) * 4, 200)
    for (name, peak), style in zip(peaks, ("-", "--"), strict=True):
        if peak and (name == "float32" or any(o["int8"] for o in known)):
            roof = np.minimum(peak, wide * ceilings["bytes_per_second"]) / 1e9
            ax.plot(wide, roof, color=_MUTED, lw=1.2, ls=style)
            ax.annotate(name, (wide[-1], roof[-1]), xytext=(-3, 5), textcoords="offset points", ha="right", color=_MUTED)
    ax.scatter(x, y, s=[20 + 1500 * o["share"] for o in known], color=_ACCENT, alpha=0.45, lw=0)
    ax.set_xlabel("Operations for each byte (log scale)")
    ax.set_title(f"{runtime['name']}: billion operations a second", loc="left", color=_MUTED, fontsize=size.font, pad=10)
    return _svg(figure, f"roofline-{size.name}", f"{len(known)} operators of {runtime['name']} under the roofs of this machine.")


def batches(profile: Record, size: Size) -> str:
    """Samples a second by samples a call."""
    curves = {r["name"]: [(b["batch_size"], b["throughput"]["value"]) for b in r["batches"]] for r in profile["runtimes"]}
    return _curves(curves, size, "batches", "Samples a second", "Samples a call", log=True)


def call_times(profile: Record, size: Size) -> str:
    """Milliseconds of a call by samples a call."""
    curves = {r["name"]: [(b["batch_size"], 1e3 * b["latency"]["value"]) for b in r["batches"]] for r in profile["runtimes"]}
    return _curves(curves, size, "calls", "Latency of a call, ms", "Samples a call", log=True)


def threads(profile: Record, size: Size) -> str:
    """Milliseconds of a call by threads."""
    curves = {r["name"]: [(t["threads"], 1e3 * t["latency"]["value"]) for t in r["threads"]] for r in profile["runtimes"]}
    return _curves(curves, size, "threads", "Latency, ms", "Threads", log=True)


def memory(profile: Record, size: Size) -> str:
    """Resident megabytes over the seconds since loading began."""
    curves = {r["name"]: [(seconds, count / 1e6) for seconds, count in r["memory"]["samples"]] for r in profile["runtimes"]}
    return _curves(curves, size, "memory", "Resident memory of the process, MB", "Seconds since loading began", log=False)


def _curves(curves: Mapping[str, Sequence[tuple[float, float]]], size: Size, name: str, title: str, axis: str, *, log: bool) -> str:
    """One line for each runtime, its name at its end; empty where none has two points."""
    curves = {key: points for key, points in curves.items() if len(points) > 1}
    if not curves:
        return ""
    figure, (ax,) = _canvas(Size(name=size.name, width=size.width, height=3.2, font=size.font), 1)
    ends = []
    for colour, (key, points) in zip([*_ORDER] * len(curves), curves.items(), strict=False):
        x, y = zip(*points, strict=True)
        ax.plot(x, y, color=colour, lw=1.5, marker="o" if log else None, ms=4)
        ends.append((x[-1], y[-1], key, colour))
    if log:
        ax.set_xscale("log", base=2)
        ticks = sorted({x for points in curves.values() for x, _ in points})
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        ax.minorticks_off()
    most, least = (pick(y for points in curves.values() for _, y in points) for pick in (max, min))
    if least > 0 and most > 30 * least:
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, 1.1 * most)
    ax.set_xlabel(axis)
    ax.set_title(title, loc="left", color=_MUTED, fontsize=size.font, pad=10)
    _name_ends(figure, ax, ends)
    text = "; ".join(f"{key}: from {points[0][1]:.3g} to {points[-1][1]:.3g}" for key, points in curves.items())
    return _svg(figure, f"{name}-{size.name}", f"{title} by {axis.lower()}. {text}.")


def _name_ends(figure: Any, ax: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """The names of curves behind their last points, pushed up where they would lie on each other."""
    figure.draw_without_rendering()
    points = figure.dpi / 72
    below = -np.inf
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        at = ax.transData.transform((x, y))[1] / points
        place = max(at, below + _LINE_POINTS)
        below = place
        ax.annotate(
            name, (x, y), xytext=(7, place - at), textcoords="offset points", va="center", color=colour, annotation_clip=False
        )  # fmt: skip
