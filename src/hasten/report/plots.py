"""The report's pictures as inline SVG: text stays text, and colours are the page's own (so that dark pages have dark plots)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.measurement import Measurement
from ..core.need import need
from . import story as stories
from . import words
from .story import Record, Story

_COLOURS = {
    "#010101": "ink",
    "#020202": "muted",
    "#030303": "rule",
    "#040404": "accent",
    "#050505": "paper",
    "#060606": "limit",
    "#070707": "soft",
}
"""Stand-ins that matplotlib draws with -> the page's CSS variables."""
_INK, _MUTED, _RULE, _ACCENT, _PAPER, _LIMIT, _SOFT = _COLOURS

_PART_COLOUR = {"start": _MUTED, "reference": _INK, "answer": _ACCENT}


@dataclass(frozen=True, kw_only=True)
class Size:
    """inches: of the drawing; font: points. A phone gets a drawing of its own, not a shrunken one."""

    name: str
    width: float
    height: float
    font: float


WIDE = Size(name="wide", width=10.4, height=4.9, font=10.5)
NARROW = Size(name="narrow", width=4.3, height=4.3, font=10.5)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One trial in the Pareto picture: x in milliseconds, y in the axis's unit, bounds as (low, high)."""

    trial: Record
    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]


def pareto(story: Story, size: Size) -> str:
    """Latency against quality with error bars, the front connected; empty with fewer than two points."""
    title, points = pareto_points(story)
    if len(points) < 2:
        return ""
    figure, axes = _canvas(size, 1)
    ax = axes[0]
    limit = story.max_drop if title.startswith("Drop") else None
    _frame(ax, points, limit)
    ceiling = ax.get_ylim()[1]
    front = sorted((p for p in points if p.trial.get("on_front") and p.y < ceiling), key=lambda p: p.x)
    if len(front) > 1:
        ax.plot([p.x for p in front], [p.y for p in front], color=_ACCENT, lw=1.2, alpha=0.45, zorder=1)
    if limit is not None:
        ax.axhline(limit, color=_LIMIT, lw=1, ls=(0, (5, 4)), zorder=1)
        ax.annotate(f"allowed {limit:g}", (1, limit), xycoords=("axes fraction", "data"), xytext=(-3, 4), textcoords="offset points",
                    ha="right", color=_LIMIT, fontsize=size.font - 1)  # fmt: skip
    for point in points:
        _draw(ax, point, story.parts(point.trial), ceiling, size)
    ax.set_xlabel("Latency, ms" + (" (log scale)" if ax.get_xscale() == "log" else ""))
    ax.set_title(title, loc="left", color=_MUTED, fontsize=size.font, pad=10)
    labels = [(p, " = ".join(story.parts(p.trial))) for p in points if story.parts(p.trial)]
    _label(figure, ax, [(p.x, min(p.y, ceiling), text, _PART_COLOUR[story.parts(p.trial)[-1]]) for p, text in labels], points, size)
    return _svg(figure, f"pareto-{size.name}", _pareto_text(title, points))


def pareto_points(story: Story) -> tuple[str, list[Point]]:
    """The title of the y axis and the points: the drop where it is known, else the quality, else the size."""
    with_latency = [t for t in story.trials if (t.get("latency") or {}).get("value")]
    if any(t.get("drop") for t in with_latency):
        return f"Drop of {story.metric}, points", _points(with_latency, _drop_of)
    metric = str(story.run.get("metric"))
    if any(metric in (t.get("quality") or {}) for t in with_latency):
        return story.metric.capitalize(), _points(with_latency, lambda t: _exactly((t.get("quality") or {}).get(metric)))
    return "Size, MB", _points(with_latency, lambda t: _exactly(t["size_bytes"] / 1e6 if t.get("size_bytes") else None))


def rounds(story: Story, size: Size) -> str:
    """The final race round by round, one panel for each of start, reference and answer, all with the same relative scale."""
    final = story.final_rounds()
    shown = {t["id"]: (" = ".join(story.parts(t)), part, t) for part, t in story.marked.items() if t.get("id") in final}
    medians = {key: 1e3 * _round_medians(final[key]) for key in shown}
    panels = [(title, part, trial, medians[key]) for key, (title, part, trial) in shown.items() if len(medians[key]) > 2]
    if not panels:
        return ""
    spread = max(0.03, 1.15 * max(float(np.max(np.abs(ms / np.median(ms) - 1))) for *_, ms in panels))
    figure, axes = _canvas(Size(name=size.name, width=size.width, height=1.25 * len(panels) + 0.45, font=size.font), len(panels))
    for ax, (title, part, trial, ms) in zip(axes, panels, strict=True):
        middle, numbers = float(np.median(ms)), np.arange(1, len(ms) + 1)
        for border in _block_borders(final[trial["id"]], len(ms)):
            ax.axvline(border + 0.5, color=_RULE, lw=1)
        ax.axhline(middle, color=_PART_COLOUR[part], lw=0.8, alpha=0.35)
        ax.plot(numbers, ms, color=_PART_COLOUR[part], lw=1.3, marker="o", ms=2.6)
        ax.set_ylim(middle * (1 - spread), middle * (1 + spread))
        ax.set_xlim(0.5, len(ms) + 0.5)
        ax.set_yticks([middle * (1 - spread / 2), middle, middle * (1 + spread / 2)])
        digits = words.decimals(middle * spread / 2)
        ax.yaxis.set_major_formatter(lambda value, _, digits=digits: f"{value:.{digits}f}")
        ax.tick_params(labelbottom=ax is axes[-1])
        ax.set_title(f"{title}, ms", loc="left", color=_PART_COLOUR[part], fontsize=size.font, pad=4)
    axes[-1].set_xlabel("Round")
    text = "; ".join(
        f"{title}: median {np.median(ms):.3g} ms, rounds from {ms.min():.3g} to {ms.max():.3g} ms" for title, _, _, ms in panels
    )
    return _svg(figure, f"rounds-{size.name}", f"Median latency of each round of the final race. {text}.")


def throughput(story: Story, size: Size) -> str:
    """Samples a second by batch size, for the trials that were measured at two batch sizes or more."""
    curves = throughput_curves(story)
    if not curves:
        return ""
    figure, (ax,) = _canvas(Size(name=size.name, width=size.width, height=3.4, font=size.font), 1)
    marked = {t["id"]: part for part, t in story.marked.items()}
    batches = sorted({batch for curve in curves.values() for batch in curve})
    for key, curve in curves.items():
        colour, strong = _PART_COLOUR.get(marked.get(key, ""), _SOFT), key in marked
        ax.plot(list(curve), list(curve.values()), color=colour, lw=1.6 if strong else 1, marker="o", ms=4, zorder=3 if strong else 2)
        if strong:
            last, value = list(curve.items())[-1]
            ax.annotate(
                marked[key], (last, value), xytext=(8, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False
            )
    ax.set_xscale("log", base=2)
    ax.set_xticks(batches, [str(b) for b in batches])
    ax.minorticks_off()
    ax.set_xlim(batches[0] / 1.2, batches[-1] * (1.45 if size.name == "wide" else 2.6))
    ax.set_ylim(0, 1.1 * max(max(c.values()) for c in curves.values()))
    ax.set_xlabel("Samples a call")
    ax.set_title("Samples a second", loc="left", color=_MUTED, fontsize=size.font, pad=10)
    text = "; ".join(f"{marked.get(key, key)}: {max(c.values()):.4g} at {max(c, key=c.__getitem__)}" for key, c in curves.items())
    return _svg(figure, f"throughput-{size.name}", f"Samples a second by samples a call. Best: {text}.")


def throughput_curves(story: Story) -> dict[str, dict[int, float]]:
    """Trial id -> batch size -> median samples a second."""
    curves: dict[str, dict[int, float]] = {}
    for m in story.measurements:
        batch = (m.get("method") or {}).get("batch_size")
        if m.get("metric") == "throughput" and batch and m.get("samples"):
            curves.setdefault(str(m["trial"]), {})[int(batch)] = float(np.median(m["samples"]))
    return {key: dict(sorted(curve.items())) for key, curve in curves.items() if len(curve) > 1}


def _canvas(size: Size, rows: int) -> tuple[Any, Sequence[Any]]:
    figure = need("matplotlib.figure", why="to draw the report").Figure(figsize=(size.width, size.height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots(rows, 1, sharex=rows > 1, squeeze=False)[:, 0]
    for ax in axes:
        ax.patch.set_alpha(0)
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
        ax.spines["bottom"].set_color(_RULE)
        ax.grid(axis="y", color=_RULE, lw=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(which="both", color=_RULE, labelcolor=_MUTED, labelsize=size.font - 1, length=3)
        ax.tick_params(axis="y", which="both", length=0)
        ax.xaxis.label.set(color=_MUTED, fontsize=size.font)
    return figure, axes


def _frame(ax: Any, points: Sequence[Point], limit: float | None) -> None:
    """Scales and limits: x is logarithmic past a span of 5; with a limit, y ends where programs are hopeless."""
    left, right = min(p.x for p in points), max(p.x for p in points)
    if right > 5 * left:
        ax.set_xscale("log")
        ax.set_xlim(left / 1.25, right * 1.3)
        candidates = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
        ticks = [t for t in candidates if left / 1.25 <= t <= right * 1.3]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    else:
        span = (right - left) or left
        ax.set_xlim(left - 0.12 * span, right + 0.15 * span)
    near = [p for p in points if limit is None or p.y <= 3 * limit] or list(points)
    low, high = min(p.y_range[0] for p in near), max(p.y_range[1] for p in near)
    if limit is not None:
        high = max(high, 1.3 * limit)
    pad = 0.1 * ((high - low) or abs(high) or 1)
    ax.set_ylim(low - pad, high + pad)


def _draw(ax: Any, point: Point, parts: Sequence[str], ceiling: float, size: Size) -> None:
    colour = _PART_COLOUR[parts[-1]] if parts else _SOFT
    if point.y > ceiling:
        ax.plot(point.x, ceiling, marker="^", color=colour, ms=7, clip_on=False, ls="", zorder=4)
        ax.annotate(
            f"{point.y:.3g}", (point.x, ceiling), xytext=(7, -3), textcoords="offset points", va="top", color=_MUTED, fontsize=size.font - 1
        )
        return
    bars = [[[abs(v - b)] for b in bounds] for v, bounds in ((point.x, point.x_range), (point.y, point.y_range))]
    ax.errorbar(
        point.x,
        point.y,
        xerr=bars[0],
        yerr=bars[1],
        color=colour,
        lw=1.2 if parts else 0.9,
        alpha=1 if parts else 0.7,
        fmt="none",
        zorder=2,
    )
    face = colour if parts and parts[-1] != "start" else _PAPER
    ax.plot(point.x, point.y, marker="o", ms=9 if parts else 5.5, mfc=face, mec=colour, mew=1.5, ls="", zorder=3)


def _label(figure: Any, ax: Any, labels: Sequence[tuple[float, float, str, str]], points: Sequence[Point], size: Size) -> None:
    """Write each label at the free place nearest to its point."""
    figure.draw_without_rendering()
    renderer = figure._get_renderer()  # the only way to measure text before it is saved
    frame = ax.get_window_extent(renderer)
    top = ax.get_ylim()[1]
    taken = []
    for p in points:
        centre_x, centre_y = ax.transData.transform((p.x, min(p.y, top)))
        (_, low), (_, high) = (ax.transData.transform((p.x, min(bound, top))) for bound in p.y_range)
        bar = _box(centre_x, (low + high) / 2, 3, (high - low) / 2) if p.y <= top else _box(centre_x + 24, centre_y - 10, 24, 9)
        taken += [_box(centre_x, centre_y, 7, 7), bar]
    for x, y, text, colour in labels:
        at = ax.transData.transform((x, y))
        choices: list[tuple[float, int, tuple[float, float], dict[str, Any], tuple[float, float, float, float]]] = []
        for dx, dy, ha, va in _places():
            style = {"ha": ha, "va": va, "color": colour, "weight": "bold", "fontsize": size.font}
            note = ax.annotate(text, (x, y), xytext=(dx, dy), textcoords="offset points", **style)
            box = note.get_window_extent(renderer)
            note.remove()
            outside = max(0, frame.x0 - box.x0) + max(0, box.x1 - frame.x1) + max(0, frame.y0 - box.y0) + max(0, box.y1 - frame.y1)
            far = float(np.hypot(*((box.min + box.max) / 2 - at)))
            cost = 50 * outside + sum(_overlap(box.extents, other) for other in taken) + 0.02 * far
            choices.append((cost, len(choices), (dx, dy), style, (box.x0, box.y0, box.x1, box.y1)))
        _, _, offset, style, extents = min(choices)
        taken.append(extents)
        leader = {"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 5} if float(np.hypot(*offset)) > 12 else None
        ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", arrowprops=leader, **style)


def _places() -> list[tuple[float, float, str, str]]:
    """Offsets in points, the preferred first: beside, above and below, then the corners, then farther away."""
    places = [(9.0, 0.0, "left", "center"), (0.0, 9.0, "center", "bottom"), (0.0, -9.0, "center", "top"), (-9.0, 0.0, "right", "center")]
    for reach in (7.0, 18.0, 32.0):
        places += [
            (dx * reach, dy * reach, "left" if dx > 0 else "right", "bottom" if dy > 0 else "top") for dx in (1, -1) for dy in (1, -1)
        ]
    return places


def _box(x: float, y: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
    return x - half_width, y - half_height, x + half_width, y + half_height


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _points(trials: Sequence[Record], quality: Callable[[Record], tuple[float, float, float] | None]) -> list[Point]:
    points = []
    for trial in trials:
        latency, y = trial["latency"], quality(trial)
        if y is not None:
            low, high = (1e3 * (latency["value"] if latency.get(k) is None else latency[k]) for k in ("low", "high"))
            points.append(Point(trial=trial, x=1e3 * latency["value"], y=y[0], x_range=(low, high), y_range=(y[1], y[2])))
    return points


def _drop_of(trial: Record) -> tuple[float, float, float] | None:
    drop: Mapping[str, Any] | None = trial.get("drop")
    if not drop or drop.get("value") is None:
        return (0.0, 0.0, 0.0) if trial.get("lossless") else None
    value, low, high = (drop["value"] if drop.get(k) is None else drop[k] for k in ("value", "low", "high"))
    return value, low, high


def _exactly(value: float | None) -> tuple[float, float, float] | None:
    return None if value is None else (value, value, value)


def _round_medians(record: Record) -> np.ndarray:
    raw = Measurement(metric="latency", unit="s", samples=tuple(record["samples"]), groups=tuple(record.get("groups") or ()))
    return raw.round_medians()


def _block_borders(measurement: Record, num_rounds: int) -> list[int]:
    """After which rounds the processes were started anew."""
    blocks = (measurement.get("method") or {}).get("block_of_round") or []
    return [i for i in range(1, min(len(blocks), num_rounds)) if blocks[i] != blocks[i - 1]]


def _pareto_text(title: str, points: Sequence[Point]) -> str:
    rows = "; ".join(f"{stories.trial_name(p.trial)}: {p.x:.3g} ms, {p.y:.3g}" for p in points)
    return f"Latency against {title[0].lower()}{title[1:]}. {rows}."


def _svg(figure: Any, name: str, description: str) -> str:
    """The figure as an `<svg>` element that scales, takes its colours from the page and shares no id with another one."""
    matplotlib = need("matplotlib", why="to draw the report")
    with io.StringIO() as file, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(
        r"font: (?:(bold|700) )?([\d.]+)px [^;\"]*", lambda m: f"font-size: {m[2]}px" + ("; font-weight: 600" if m[1] else ""), text
    )
    for stand_in, variable in _COLOURS.items():
        text = text.replace(stand_in, f"var(--{variable})")
    text = re.sub(
        r'<svg[^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{_attribute(description)}">', text, count=1
    )
    return re.sub(r"\n\s*", "\n", text)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
