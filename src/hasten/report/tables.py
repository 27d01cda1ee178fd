"""The answer, the front and a comparison as rich renderables, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from . import story as stories
from . import words
from .profile_story import kinds, summary
from .story import Story

_COLOUR = {
    "answer": "bold green", "reference": "bold", "passed": "green", "promising": "yellow", "failed": "red", "lost": "dim",
}  # fmt: skip


def answer_panel(answer: Mapping[str, Any], evidence: Sequence[Mapping[str, Any]] = ()) -> RenderableType:
    """The answer document in one sentence and its numbers.

    evidence: the records of the run; they bring the model's name, the metric and the limits into the sentence.
    """
    story = Story.of({"answer": answer}, evidence)
    sentence = Text()
    for place, piece in enumerate(stories.headline(story).split("**")):
        sentence.append(piece, style="bold" if place % 2 else "")
    numbers = Table.grid(padding=(0, 2))
    for name, value, note in stories.figures(story):
        numbers.add_row(Text(name, style="dim"), Text(value, style="bold"), Text(note, style="dim"))
    body = Table.grid()
    parts: list[RenderableType] = [sentence, Text(), numbers, *_place(answer)]
    for part in parts:
        body.add_row(part)
    border = {"passed": "green", "undecided": "yellow", "failed": "red"}.get(str(answer.get("verdict")), "none")
    return Panel(body, title=stories.badge(answer), title_align="left", border_style=border)


def front_table(trials: Sequence[Mapping[str, Any]], *, title: str = "") -> Table:
    """Trials as evidence records, the marked ones first. A dot marks the front; the drop's upper bound stands beside it."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("Program", overflow="fold", ratio=1, min_width=24)
    for name in ("Latency", "Speed-up", "Drop, points", "Size"):
        table.add_column(name, justify="right", no_wrap=True)
    with_energy = any(trial.get("energy") for trial in trials)
    if with_energy:
        table.add_column("Energy", justify="right", no_wrap=True)
    table.add_column("Outcome", no_wrap=True)
    for trial in Story.of({}, [{"kind": "trial", **t} for t in trials]).trials:
        fate = str(trial.get("fate") or "")
        drop = words.points(trial.get("drop"))
        bounded = f"{drop.value} (\N{LESS-THAN OR EQUAL TO} {drop.high})" if drop.high else drop.value
        lossless = trial.get("lossless") and not trial.get("drop")
        table.add_row(
            Text(stories.trial_name(trial)),
            words.seconds(trial.get("latency")).value,
            words.ratio(trial.get("speedup")).value if fate != "reference" else "1x",
            "lossless" if lossless else bounded,
            words.size(trial.get("size_bytes")),
            *([_energy(trial.get("energy"))] if with_energy else []),
            Text(fate + (" ●" if trial.get("on_front") else ""), style=_COLOUR.get(fate, "")),
            style="dim" if fate in ("lost", "failed") else "",
        )
    return table


def _energy(energy: Mapping[str, Any] | None) -> str:
    """`1.2 mJ`, marked `est.` where it was not measured."""
    return words.joules(energy).value + (" est." if energy and energy.get("label") == "estimated" else "")


def bench_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Programs that raced: rows of `{name, latency{value,low,high}, speedup{...}|null (over the first row), size_bytes|null}`."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("Program", overflow="fold", ratio=1, min_width=18)
    for name in ("Latency", "95 % interval", "Speed-up", "95 % interval", "Size"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, row in enumerate(rows):
        latency, speedup = words.seconds(row.get("latency")), words.ratio(row.get("speedup"))
        ratio = (speedup.value, speedup.range) if place or row.get("speedup") else ("1x", "")
        table.add_row(Text(str(row.get("name", "?"))), latency.value, latency.range, *ratio, words.size(row.get("size_bytes")))
    return table


def profile_table(runtimes: Sequence[Mapping[str, Any]]) -> Table:
    """The runtimes of a profile, the fastest first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("Runtime", overflow="fold", ratio=1, min_width=18)
    for name in ("Latency", "95 % interval", "p95", "Memory", "Loading", "Best throughput"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in map(summary, runtimes):
        table.add_row(Text(row.name), row.latency.value, row.latency.range, row.p95, row.memory, row.load, row.throughput)
    return table


def operators_table(runtime: Mapping[str, Any]) -> Table:
    """The operators of one runtime by kind, the dearest first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("Kind", overflow="fold", ratio=1, min_width=18)
    for name in ("Number", "Time", "Share", "Operations", "Bytes", "Reach"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Bound", no_wrap=True)
    for row in kinds(runtime["operators"]):
        table.add_row(Text(row.name), row.count, row.time, row.share, row.flops, row.size, row.reach, row.bound)
    return table


def _place(answer: Mapping[str, Any]) -> list[Text]:
    """Where the bundle and the report are."""
    rows = [(name, answer.get(key)) for name, key in (("Bundle", "bundle"), ("Report", "report"))]
    lines = [Text.assemble((f"{name}  ", "dim"), str(path)) for name, path in rows if path]
    return [Text(), *lines] if lines else []
