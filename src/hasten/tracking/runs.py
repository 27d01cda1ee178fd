"""Evidence as runs: what MLflow holds of a search, as plain data. Nothing here knows MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..core.digest import digest_json

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. texts: artefact's name -> its content; failed: MLflow shows it as such."""

    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    texts: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search: its own run and one below it for each candidate, in the order of the evidence.

    id: digest of the evidence, the same whenever the same search is tracked; started, ended: milliseconds since 1970;
    answer: what a registered version says about itself, empty where nothing keeps the limits.
    """

    id: str
    run: Run
    candidates: tuple[Run, ...]
    started: int
    ended: int
    answer: Mapping[str, str]

    @classmethod
    def of(cls, evidence: Sequence[Record]) -> Search:
        """The search that left these lines (bundle/layout.py says what each holds)."""
        run, answer = _first(evidence, "run"), _first(evidence, "answer")
        account = run.get("account_seconds") or {}
        started = datetime.fromisoformat(run["started"]).timestamp() if run.get("started") else 0.0
        return cls(
            id=digest_json(list(evidence)),
            run=_search_run(run, answer, evidence),
            candidates=tuple(_candidate(line, evidence) for line in evidence if line["kind"] == "trial"),
            started=round(1000 * started),
            ended=round(1000 * (started + sum(account.values()))),
            answer=_about(answer) if answer.get("answer") else {},
        )


def _search_run(run: Record, answer: Record, evidence: Sequence[Record]) -> Run:
    chosen, speedup = answer.get("answer") or {}, answer.get("speedup") or {}
    job = {name: section for name, section in (run.get("job") or {}).items() if name != "tracking"}
    decisions = [line for line in evidence if line["kind"] == "decision"]
    return Run(
        name=str(run.get("model_name") or "search"),
        params=_flat({
            **job, "machine": run.get("machine"), "versions": run.get("versions"), "num_samples": run.get("num_samples"),
            **{key: run.get(key) for key in ("model_name", "metric", "labelled", "threads", "batch_size", "budget_seconds")},
        }),
        metrics=_metrics({
            "latency_seconds": chosen.get("latency_seconds"), "speedup_over_start": speedup.get("over_start"),
            "speedup_over_lossless": speedup.get("over_lossless"), "drop_points": answer.get("drop_points"),
            "size_bytes": chosen.get("size_bytes"), "peak_memory_bytes": chosen.get("peak_memory_bytes"),
            "noise_floor": run.get("noise_floor"), "flops": run.get("flops"), "parameters": run.get("parameters"),
            **{f"account_seconds/{name}": seconds for name, seconds in (run.get("account_seconds") or {}).items()},
        }),
        tags=_texts({
            "hasten.kind": "search", "hasten.verdict": answer.get("verdict"), "hasten.command": run.get("command"),
            "hasten.answer": chosen.get("id"), "mlflow.note.content": answer.get("reason"),
        }),
        texts={"evidence.jsonl": _lines(evidence), "decisions.jsonl": _lines(decisions)},
    )  # fmt: skip


def _candidate(trial: Record, evidence: Sequence[Record]) -> Run:
    verdict = trial.get("verdict") or {}
    own = [line for line in evidence if line["kind"] == "measurement" and line["trial"] == trial["id"]]
    return Run(
        name=str(trial["text"]),
        params=_flat({
            "recipe": " > ".join(trial["recipe"]) or "none", "runtime": trial["runtime"], "knobs": trial["knobs"],
            "facts": ", ".join(trial["facts"]), "lossless": trial["lossless"], "fate": trial["fate"], "reason": trial["reason"],
        }),
        metrics=_metrics({
            "latency_seconds": trial["latency"], "speedup": trial["speedup"], "drop_points": trial["drop"],
            "certified_drop_points": verdict.get("drop"), "throughput_per_second": trial["throughput"],
            "throughput_batch_size": trial["best_batch"], "size_bytes": trial["size_bytes"],
            "peak_memory_bytes": trial["peak_memory_bytes"], **{f"quality/{name}": value for name, value in trial["quality"].items()},
        }),
        tags=_texts({
            "hasten.kind": "candidate", "hasten.trial": trial["id"], "hasten.on_front": trial["on_front"],
            "hasten.verdict": verdict.get("outcome"), "mlflow.note.content": trial["reason"],
        }),
        texts={"evidence.jsonl": _lines([trial, *own])},
        failed=trial["fate"] == "failed",
    )  # fmt: skip


def _about(answer: Record) -> dict[str, str]:
    chosen, drop, speedup = answer["answer"], answer.get("drop_points") or {}, answer.get("speedup") or {}
    return _texts({
        "verdict": answer.get("verdict"), "recipe": " > ".join(chosen.get("recipe") or ()), "runtime": chosen.get("runtime"),
        "drop_points": drop.get("value"), "drop_points_high": drop.get("high"),
        **{f"speedup_{name}": (ratio or {}).get("value") for name, ratio in speedup.items()},
    })  # fmt: skip


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers as they are; an interval as NAME, NAME_low, NAME_high, and NAME_n where it counts samples. What is unknown is left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {name if part == "value" else f"{name}_{part}": value.get(part) for part in ("value", "low", "high", "n")}
        else:
            found[name] = value
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested tables with dotted keys."""
    return _texts(dict(_leaves(values, "")))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Text as it is, everything else as JSON; what is unknown or empty is left out."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
        if value is not None and value != ""
    }


def _first(evidence: Sequence[Record], kind: str) -> Record:
    return next((line for line in evidence if line["kind"] == kind), {})


def _lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
