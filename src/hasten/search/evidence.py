"""A search as evidence: the lines of bundle/layout.py, and the document of `hasten optimize --json`."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.job import Job
from ..core.measurement import Interval, Measurement
from ..core.preprocess import open_picture
from ..core.seams import Target
from ..core.trial import Trial
from ..core.workload import Workload
from .certify import Finish
from .study import Study

_MAX_DISAGREEMENTS = 24
_THUMBNAIL = 96  # pixels of the long side


def document(finish: Finish, *, bundle: str | None, account: Mapping[str, float]) -> dict[str, Any]:
    """What `--json` prints, before there is a report. Its keys are stable."""
    trial = finish.answer
    answer = None
    if trial is not None:
        latency, memory, size = (trial.latest(m) for m in ("latency", "peak_memory", "size"))
        answer = {
            "id": trial.id,
            "recipe": trial.candidate.recipe,
            "notes": list(trial.candidate.notes),
            "runtime": trial.runtime.step().text,
            "size_bytes": int(size.samples[0]) if size else None,
            "peak_memory_bytes": int(memory.samples[0]) if memory else None,
            "latency_seconds": three(latency.interval()) if latency else None,
            "energy_joules": energy(trial),
        }
    drop = trial.verdict.drop if trial is not None and trial.verdict else None
    lossless = trial is not None and trial.candidate.lossless
    return {
        "verdict": finish.verdict,
        "reason": finish.reason,
        "answer": answer,
        "speedup": {"over_start": three(finish.over_start), "over_lossless": three(finish.over_lossless)},
        "drop_points": {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0} if lossless else four(drop),
        "bundle": bundle,
        "report": None,
        "account_seconds": dict(account),
    }


def lines(
    job: Job, workload: Workload, study: Study, finish: Finish, trials: Sequence[Trial], front: Sequence[Trial],
    *, target: Target, run: Mapping[str, Any], answer: Mapping[str, Any], metric: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Everything that happened, one object a line."""
    splits = workload.splits
    first = {
        "kind": "run", **run, "job": job.model_dump(mode="json"), "metric": metric, "labelled": splits.labelled,
        "objective": job.search.objective, "limits": job.limits.model_dump(mode="json"), "threads": target.threads,
        "batch_size": target.batch_size, "num_samples": {n: len(splits[n]) for n in ("calibrate", "select", "certify")},
        "noise_floor": three(finish.noise_floor), "model_name": workload.name, "account_seconds": study.closed_account(),
        "budget_seconds": study.budget_seconds, "finished": finish.verdict != "unfinished",
    }  # fmt: skip
    members = {t.id for t in front}
    result: list[dict[str, Any]] = [first, *_trial_lines(trials, members)]
    result += [{"kind": "decision", **d.to_json()} for d in study.decisions]
    if finish.outcomes is not None:
        start, ours = finish.outcomes
        result.append({"kind": "outcomes", "split": "certify", "metric": metric, "start": _plain(start), "answer": _plain(ours)})
    result.append({"kind": "answer", **answer})
    return result


def without_bundle(job: Job, document: Mapping[str, Any], trials: Sequence[Trial], front: Sequence[Trial]) -> list[dict[str, Any]]:
    """What is left of a search in which nothing keeps the limits: no bundle holds its evidence."""
    members = {t.id for t in front}
    first = {
        "kind": "run", "job": job.model_dump(mode="json"), "model_name": job.model.source, "limits": job.limits.model_dump(mode="json"),
        "account_seconds": document["account_seconds"], "budget_seconds": job.search.budget, "objective": job.search.objective,
    }  # fmt: skip
    return [first, *_trial_lines(trials, members), {"kind": "answer", **document}]


def _trial_lines(trials: Sequence[Trial], members: Collection[str]) -> Iterator[dict[str, Any]]:
    for trial in trials:
        yield trial_line(trial, on_front=trial.id in members)
    for trial in trials:
        for measurement in trial.measurements:
            yield {"kind": "measurement", "trial": trial.id, "stage": _stage(measurement), **measurement.to_json()}


def trial_line(trial: Trial, *, on_front: bool) -> dict[str, Any]:
    """One trial, for tables and pictures."""
    latency, memory, size = (trial.latest(m) for m in ("latency", "peak_memory", "size"))
    throughput = best_throughput(trial)
    options = trial.runtime.options()
    return {
        "kind": "trial", "id": trial.id, "text": trial.text, "recipe": trial.candidate.recipe, "runtime": trial.runtime.name,
        "knobs": options, "facts": sorted(trial.candidate.facts), "notes": list(trial.candidate.notes),
        "lossless": trial.candidate.lossless, "fate": str(trial.fate),
        "reason": trial.reason, "on_front": on_front, "size_bytes": int(size.samples[0]) if size else None,
        "peak_memory_bytes": int(memory.samples[0]) if memory else None,
        "latency": three(latency.interval()) if latency else None,
        "throughput": three(throughput.interval()) if throughput else None, "energy": energy(trial),
        "best_batch": throughput.method["batch_size"] if throughput else None,
        "speedup": three(trial.speedup), "drop": four(trial.drop), "quality": trial.quality,
        "verdict": trial.verdict.to_json() if trial.verdict else None,
    }  # fmt: skip


def energy(trial: Trial) -> dict[str, Any] | None:
    """Joules of a call as value, low and high, and whether that was measured or estimated; None where it is unknown."""
    known = trial.latest("energy")
    return None if known is None else {**(three(known.interval()) or {}), "label": known.method["label"]}


def best_throughput(trial: Trial) -> Measurement | None:
    """The throughput measurement at the batch size that gives the most samples per second."""
    measured = [m for m in trial.measurements if m.metric == "throughput"]
    return max(measured, key=lambda m: m.interval().value, default=None)


def disagreements(workload: Workload, start: np.ndarray, answer: np.ndarray) -> Iterator[dict[str, Any]]:
    """The certify samples on which two classifiers' outputs [N, C] name different classes, most sure ones first."""
    if start.ndim != 2 or start.shape[1] < 2:
        return
    before, after = start.argmax(axis=1), answer.argmax(axis=1)
    sure_before, sure_after = _confidence(start), _confidence(answer)
    differ = np.flatnonzero(before != after)
    certify = workload.splits.certify
    pictures = next(iter(certify.inputs.values())) if workload.preprocess else None
    for index in differ[np.argsort(-sure_after[differ])][:_MAX_DISAGREEMENTS]:
        label = None if certify.labels is None else certify.labels[index]
        yield {
            "kind": "disagreement", "index": int(index), "label": _class(workload, label), "start": _class(workload, before[index]),
            "answer": _class(workload, after[index]), "confidence_start": float(sure_before[index]),
            "confidence_answer": float(sure_after[index]), "picture": None if pictures is None else _thumbnail(pictures[int(index)]),
        }  # fmt: skip


def three(interval: Interval | None) -> dict[str, float | None] | None:
    """value, low and high."""
    return None if interval is None else {k: v for k, v in interval.to_json().items() if k in ("value", "low", "high")}


def four(interval: Interval | None) -> dict[str, float | None] | None:
    """value, low, high and n."""
    return None if interval is None else {k: v for k, v in interval.to_json().items() if k in ("value", "low", "high", "n")}


def _stage(measurement: Measurement) -> str:
    """Only the final race starts several sets of processes; throughput is measured after it."""
    final = measurement.metric == "throughput" or measurement.method.get("blocks", 1) > 1
    return "final" if final else "explore"


def _class(workload: Workload, number: Any) -> Any:
    if number is None:
        return None
    names = workload.labels
    return names[int(number)] if names and 0 <= int(number) < len(names) else int(number)


def _confidence(scores_NC: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores_NC - scores_NC.max(axis=1, keepdims=True))
    return np.asarray((shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1))


def _thumbnail(picture: Any) -> str:
    image = open_picture(picture, "RGB")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _plain(rows: np.ndarray) -> Any:
    return np.round(rows.astype(np.float64), 6).tolist() if rows.dtype.kind == "f" else rows.astype(int).tolist()
