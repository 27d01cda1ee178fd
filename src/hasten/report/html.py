"""A bundle's evidence as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..core.units import format_seconds
from . import plots, words
from . import story as stories
from ._page import page
from .story import Record, Story

MAX_PICTURE_BYTES = 200_000
"""Of base64, for all disagreements together: past it, samples are named instead of shown."""
MAX_DISAGREEMENTS = 24


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial in the table. Every field is text; `recipe` is its steps; fate is its style, outcome what is written."""

    recipe: list[str]
    runtime: str
    fate: str
    outcome: str
    on_front: bool
    latency: words.Shown
    speedup: words.Shown
    drop: words.Shown
    drop_samples: str
    size: str
    memory: str


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Why a trial is not the answer: one sentence, and the last words of one that failed."""

    recipe: list[str]
    runtime: str
    fate: str
    sentence: str
    last_words: str


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the making of a trained model told."""

    recipe: list[str]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A sample on which start and answer disagree. turn: better, worse, or neither; picture: a data URI or empty."""

    index: str
    label: str
    start: str
    answer: str
    turn: str
    picture: str
    coarse: bool


@dataclass(frozen=True, kw_only=True)
class Share:
    """A part of the time that was spent. percent: of the sum, 0 to 100; tint: 0 (strongest) to 100."""

    name: str
    seconds: str
    percent: float
    tint: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A step that was chosen by what it promised. off: how far the promise was, such as `+12 %`; inside: whether the range held it."""

    what: str
    promised: str
    range: str
    came: str
    off: str
    inside: bool


def render(manifest: Mapping[str, Any], evidence: Sequence[Mapping[str, Any]]) -> str:
    """The report of a bundle, from its manifest and the records of its evidence (bundle/layout.py).

    Raises MissingExtra without jinja2 or matplotlib.
    """
    story = Story.of(manifest, evidence)
    return page("report.html.j2", _view(story), _DRAWINGS, story)


_DRAWINGS = {"pareto": plots.pareto, "rounds": plots.rounds, "throughput": plots.throughput}


def _view(story: Story) -> dict[str, Any]:
    """All that the template shows, as text."""
    run, total = story.run, sum(_account(story).values())
    forecasts, forecast_error = _forecasts(story)
    return {
        "name": story.name,
        "metric": story.metric,
        "created": str(story.manifest.get("created") or run.get("started") or "")[:16].replace("T", " "),
        "verdict": str(story.answer.get("verdict") or "none"),
        "badge": stories.badge(story.answer),
        "headline": _emphasised(stories.headline(story)),
        "reason": str(story.answer.get("reason") or ""),
        "figures": stories.figures(story),
        "rows": [_row(story, t) for t in story.trials],
        "lessons": _lessons(story),
        "trainings": _trainings(story),
        "pareto_summary": _pareto_summary(story),
        "best_throughput": _best_throughput(story),
        "changes": _changes(story),
        "num_changes": len(story.disagreements),
        "changes_summary": stories.changes(story),
        "machine": _machine(story),
        "versions": sorted((run.get("versions") or {}).items()),
        "shares": _shares(story),
        "total": format_seconds(total) if total else "",
        "how": stories.measured_how(story),
        "forecasts": forecasts,
        "forecast_error": forecast_error,
        "decisions": [{**dict.fromkeys(("what", "why", "learnt"), ""), **d, "at": _clock(d.get("seconds"))} for d in story.decisions],
        "command": str(run.get("command") or ""),
    }


def _row(story: Story, trial: Record) -> Row:
    parts = story.parts(trial) or [str(trial.get("fate") or "")]
    drop = trial.get("drop")
    parity = bool(trial.get("lossless") and not drop and trial.get("latency"))
    return Row(
        recipe=stories.recipe(trial) or ["as it came"],
        runtime=stories.runtime(trial),
        fate=parts[-1],
        outcome=" = ".join(reversed(parts)),
        on_front=bool(trial.get("on_front")),
        latency=words.seconds(trial.get("latency")),
        speedup=words.Shown(value="1x") if trial.get("fate") == "reference" else words.ratio(trial.get("speedup")),
        drop=words.Shown(value="lossless") if parity else words.points(drop),
        drop_samples=f"n = {drop['n']:,}" if drop and drop.get("n") else "",
        size=words.size(trial.get("size_bytes")),
        memory=words.size(trial.get("peak_memory_bytes")),
    )


def _lessons(story: Story) -> list[Lesson]:
    lessons = []
    for trial in story.trials:
        if story.parts(trial) and trial.get("fate") != "failed":
            continue
        sentence, _, rest = str(trial.get("reason") or "").partition("\n")
        lessons.append(
            Lesson(
                recipe=stories.recipe(trial) or ["as it came"],
                runtime=stories.runtime(trial),
                fate=str(trial.get("fate") or ""),
                sentence=(sentence[:1].upper() + sentence[1:]) or "No reason was recorded.",
                last_words=str(trial.get("last_words") or rest).strip(),
            )
        )
    return lessons


def _trainings(story: Story) -> list[Training]:
    """Each trained model once, with the shortest of the recipes that go through it."""
    shortest: dict[tuple[str, ...], list[str]] = {}
    for trial in story.trials:
        notes, steps = tuple(map(str, trial.get("notes") or ())), stories.recipe(trial)
        if notes and len(steps) < len(shortest.get(notes, [*steps, ""])):
            shortest[notes] = steps
    return [Training(recipe=recipe, notes=list(notes)) for notes, recipe in shortest.items()]


def _forecasts(story: Story) -> tuple[list[Forecast], str]:
    """What was promised and what came of it, and the median error as a sentence."""
    rows, errors = [], []
    for decision in story.decisions:
        promised, came = decision.get("forecast") or {}, (decision.get("outcome") or {}).get("speedup")
        if not promised or not came:
            continue
        errors.append(promised["speedup"] / came - 1)
        rows.append(
            Forecast(
                what=str(decision.get("what") or ""), promised=f"{promised['speedup']:.2f}x", came=f"{came:.2f}x",
                range=f"{promised['low']:.2f} to {promised['high']:.2f}", off=f"{100 * errors[-1]:+.0f} %".replace("-", "\N{MINUS SIGN}"),
                inside=promised["low"] <= came <= promised["high"],
            )
        )  # fmt: skip
    if not errors:
        return [], ""
    held = sum(row.inside for row in rows)
    return rows, (
        f"Half of the {len(rows)} forecasts were off by less than {100 * median(abs(e) for e in errors):.0f} %; "
        f"{held} of the {len(rows)} ranges, meant to hold nine in ten, held what was measured."
    )


def _changes(story: Story) -> list[Change]:
    changes, budget = [], MAX_PICTURE_BYTES
    for record in story.disagreements[:MAX_DISAGREEMENTS]:
        uri, coarse = _picture(record.get("picture"), budget)
        budget -= len(uri)
        label, start, answer = (record.get(k) for k in ("label", "start", "answer"))
        right = (str(start) == str(label), str(answer) == str(label))
        changes.append(
            Change(
                index=f"{record.get('index', 0):,}",
                label="" if label is None else str(label),
                start=_said(start, record.get("confidence_start")),
                answer=_said(answer, record.get("confidence_answer")),
                turn="" if label is None else {(True, False): "worse", (False, True): "better"}.get(right, "neither"),
                picture=uri,
                coarse=coarse,
            )
        )
    return changes


def _picture(encoded: Any, budget: int) -> tuple[str, bool]:
    """A PNG as a data URI, and whether it is so small that its pixels should stay squares. Anything else is left out."""
    if not isinstance(encoded, str) or not encoded or len(encoded) + 22 > budget:
        return "", False
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return "", False
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "", False
    return f"data:image/png;base64,{encoded}", int.from_bytes(data[16:20], "big") <= 64


def _said(answer: Any, confidence: Any) -> str:
    return f"{answer}" + (f" {100 * confidence:.0f} %" if isinstance(confidence, float | int) else "")


def _pareto_summary(story: Story) -> str:
    title, points = plots.pareto_points(story)
    if len(points) < 2:
        return "Fewer than two programs have both a latency and a quality: there is no picture to draw."
    num_front = sum(bool(p.trial.get("on_front")) for p in points)
    better = "left and up" if title == story.metric.capitalize() else "left and down"
    text = f"Each dot is one of {len(points)} programs, each bar a 95 % interval; better is to the {better}."
    return text + (f" The line joins the front: the {num_front} that no other one beats beyond the noise." if num_front > 1 else "")


def _best_throughput(story: Story) -> list[tuple[str, str, words.Shown]]:
    """For start, reference and answer: (part, batch, samples a second at the best batch)."""
    return [
        (part, str(trial.get("best_batch") or ""), words.rate(trial["throughput"]))
        for part, trial in story.marked.items()
        if (trial.get("throughput") or {}).get("value")
    ]


def _machine(story: Story) -> list[tuple[str, str]]:
    run = story.run
    noise, load = run.get("noise_floor"), run.get("load") or {}
    inside = f"A program timed against itself came out at {words.ratio(noise).text}: a difference inside that is none." if noise else ""
    rows = [
        ("Machine", str((run.get("machine") or {}).get("text") or "")),
        ("Load", str(load.get("sentence") or "")),
        ("Noise floor", inside),
        ("Setting", stories.setting(run)),
        ("Model", ", ".join(_model(run))),
        ("Limits", ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in story.limits.items())),
    ]  # fmt: skip
    return [row for row in rows if row[1]]


def _model(run: Record) -> list[str]:
    sizes = (("parameters", "parameters"), ("flops", "FLOPs a sample"))
    return [f"{run[key] / 1e6:,.3g} million {noun}" for key, noun in sizes if run.get(key)]


def _account(story: Story) -> dict[str, float]:
    account = story.run.get("account_seconds") or story.answer.get("account_seconds") or {}
    return {name: float(seconds) for name, seconds in account.items() if seconds and seconds > 0}


def _shares(story: Story) -> list[Share]:
    account = _account(story)
    total, ranked = sum(account.values()), sorted(account.items(), key=lambda item: -item[1])
    return [
        Share(
            name=name.replace("_", " "),
            seconds=format_seconds(seconds),
            percent=round(100 * seconds / total, 1),
            tint=round(82 * place / max(1, len(ranked) - 1)),
        )
        for place, (name, seconds) in enumerate(ranked)
    ]


def _clock(seconds: Any) -> str:
    minutes, rest = divmod(int(seconds or 0), 60)
    return f"{minutes}:{rest:02d}"


def _emphasised(sentence: str) -> list[tuple[str, bool]]:
    """`a **b** c` -> [("a ", False), ("b", True), (" c", False)]: the template escapes each part."""
    return [(part, bool(place % 2)) for place, part in enumerate(sentence.split("**")) if part]
