"""The model card: what a bundle is, for people, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.units import format_bytes, format_joules, format_seconds
from .manifest import Manifest


def model_card(manifest: Manifest, answer: Mapping[str, Any]) -> str:
    """Markdown. answer: the document of `hasten optimize --json`; what it lacks is left out."""
    sections = [_head(manifest, answer), _numbers(answer), _takes(manifest), _made(manifest, answer), _limits(manifest), _USE]
    return "\n\n".join(section for section in sections if section) + "\n"


_USE = """## How to use it

    hasten verify .               # the files, and that this machine computes what was certified
    hasten predict . FILE
    hasten serve .                # HTTP on 127.0.0.1:8000

From Python:

    from hasten.bundle.read import Bundle
    outputs = Bundle.open(".").predict(inputs)

The evidence behind every number is in `evidence.jsonl`; `hasten report .` shows it."""


def _head(manifest: Manifest, answer: Mapping[str, Any]) -> str:
    lines = [f"# {manifest.model}"]
    if reason := answer.get("reason"):
        lines.append(str(reason))
    verdict = answer.get("verdict")
    if verdict == "unfinished":
        lines.append("Verdict: **unfinished**. It was written while the search went on; nothing was certified.")
    elif verdict:
        lines.append(f"Verdict: **{verdict}**, certified {manifest.created} on {manifest.machine['text']}.")
    return "\n\n".join(lines)


def _numbers(answer: Mapping[str, Any]) -> str:
    chosen, speedup = answer.get("answer") or {}, answer.get("speedup") or {}
    rows = [
        ("Latency", _interval(chosen.get("latency_seconds"), format_seconds)),
        ("Faster than the model as it came", _interval(speedup.get("over_start"), _times)),
        ("Faster than the fastest lossless form", _interval(speedup.get("over_lossless"), _times)),
        ("Quality lost", _interval(answer.get("drop_points"), _points)),
        ("Size", format_bytes(chosen["size_bytes"]) if chosen.get("size_bytes") is not None else ""),
        ("Peak memory", format_bytes(chosen["peak_memory_bytes"]) if chosen.get("peak_memory_bytes") is not None else ""),
        (f"Energy of a call, {(chosen.get('energy_joules') or {}).get('label')}", _interval(chosen.get("energy_joules"), format_joules)),
    ]
    body = [f"| {name} | {value} |" for name, value in rows if value]
    return "\n".join(["## Numbers", "", "| | |", "|---|---|", *body]) if body else ""


def _takes(manifest: Manifest) -> str:
    rows = [
        f"| {side} | `{spec.name}` | {spec.dtype} | {spec.shape_text} |"
        for side, specs in (("input", manifest.signature.inputs), ("output", manifest.signature.outputs))
        for spec in specs
    ]
    lines = ["## What goes in and out", "", "| | name | type | shape |", "|---|---|---|---|", *rows]
    if manifest.preprocess is not None:
        settings = ", ".join(f"{k}={v}" for k, v in manifest.preprocess.model_dump(mode="json").items() if v is not None)
        lines += ["", f"Pictures are preprocessed by the bundle itself: {settings}."]
    if manifest.labels:
        names = ", ".join(manifest.labels[:10]) + (", ..." if len(manifest.labels) > 10 else "")
        lines += ["", f"{len(manifest.labels)} classes: {names}."]
    return "\n".join(lines)


def _made(manifest: Manifest, answer: Mapping[str, Any]) -> str:
    chosen = answer.get("answer") or {}
    recipe, notes = chosen.get("recipe") or [], chosen.get("notes") or []
    knobs = ", ".join(f"{k}={v}" for k, v in manifest.runtime.knobs.items())
    used = ", ".join(f"{k} {v}" for k, v in {**manifest.versions, **manifest.runtime.versions}.items())
    return "\n".join([
        "## How it was made",
        "",
        f"- steps: {' > '.join(map(str, recipe)) or 'none: the model as it came'}",
        f"- runs on: {manifest.runtime.name} ({knobs}), {manifest.target.threads} threads at most, batch {manifest.target.batch_size}",
        *(f"- {note}" for note in notes),
        f"- versions: {used}",
    ])  # fmt: skip


def _limits(manifest: Manifest) -> str:
    asked = ", ".join(f"{k} = {v}" for k, v in manifest.limits.items() if v is not None)
    return "\n".join([
        "## Limits",
        "",
        f"- asked for: {asked or 'nothing'}; judged by {manifest.metric}",
        "- the certificate holds for data like those it was made with, and the speed for that machine; `hasten verify` checks another one",
    ])  # fmt: skip


def _interval(value: Mapping[str, Any] | None, show: Callable[[float], str]) -> str:
    if not value or value.get("value") is None:
        return ""
    text = show(value["value"])
    if value.get("low") is not None and value.get("high") is not None:
        text += f" ({show(value['low'])} to {show(value['high'])})"
    return text + (f", {value['n']} samples" if value.get("n") else "")


def _times(ratio: float) -> str:
    return f"{ratio:.3g}x"


def _points(points: float) -> str:
    return f"{points:.2f} points"
