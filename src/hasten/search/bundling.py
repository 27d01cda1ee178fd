"""From a finish to a bundle on disk, with the evidence and the golden examples."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.write import Contents, write
from ..core.candidate import Floor
from ..core.errors import HastenError
from ..core.job import Job
from ..core.machine import load_average, this_machine, versions
from ..core.trial import Fate, Trial
from . import evidence
from .certify import Finish, Finisher
from .front import Answer, Front, undominated
from .judge import Judge
from .study import Study
from .workshop import Workshop

_GOLDEN = 8
_PACKAGES = ("hasten", "numpy", "scipy", "onnx", "onnxruntime", "openvino", "nncf", "onnxslim", "torch", "onnxscript", "pillow")
_BUSY = 0.15  # share of the machine that others may take before a report says so


def write_bundle(
    job: Job, study: Study, shop: Workshop, judge: Judge, finisher: Finisher, finish: Finish, *, out: Path | None, command: str
) -> Front:
    """The front, its answer's bundle written to `out` (or the store)."""
    finish = _complete(study, judge, finisher, finish)
    trials = _in_order(study, finish)
    front = undominated(trials)
    place = out or shop.store.root / "bundles" / f"{shop.workload.name}-{job.digest()[:8]}"
    with study.spending("bundle"):
        study.stage("bundle", "everything that ships, in one folder")
        answer = finish.answer
        contents = None if answer is None else _contents(job, study, shop, judge, finish, answer, trials, front, command, place)
        document = evidence.document(
            finish, bundle=str(place) if contents else None, report=str(place / "report.html") if contents else None,
            account=study.closed_account(),
        )  # fmt: skip
        if contents is not None:
            write(contents, place)
    return Front(trials=tuple(trials), document=document, answer=None if answer is None else Answer(trial=answer, bundle=place))


def _complete(study: Study, judge: Judge, finisher: Finisher, finish: Finish) -> Finish:
    """The finish with throughputs and the other metrics of what it is about."""
    told = [t for t in (finish.start, finish.reference, finish.answer) if t is not None]
    distinct = list({t.id: t for t in told}.values())
    study.stage("throughput", "samples per second at several batch sizes")
    known = {t.id: t for t in finisher.throughput(distinct)}
    if finish.outcomes is not None:  # both were run over the certify split, so their outputs are at hand
        for trial in (finish.start, finish.answer):
            if trial is not None:
                known[trial.id] = known[trial.id].with_(quality=judge.metrics(trial, "certify"))
    answer = known[finish.answer.id] if finish.answer else None
    return replace(
        finish, start=known[finish.start.id], reference=known[finish.reference.id], answer=answer,
        finalists=tuple(known.get(t.id, t) for t in finish.finalists),
    )  # fmt: skip


def _in_order(study: Study, finish: Finish) -> list[Trial]:
    """Every trial with all that is known of it: start, reference, answer first."""
    known = dict(study.trials)
    for trial in (finish.start, finish.reference, *finish.finalists):
        known[trial.id] = trial
    if finish.answer is not None:
        known[finish.answer.id] = finish.answer.with_(fate=Fate.ANSWER)
    first = [finish.start.id, finish.reference.id, *([finish.answer.id] if finish.answer else [])]
    return [known[i] for i in dict.fromkeys([*first, *known])]


def _contents(
    job: Job, study: Study, shop: Workshop, judge: Judge, finish: Finish, answer: Trial,
    trials: list[Trial], front: list[Trial], command: str, place: Path,
) -> Contents:  # fmt: skip
    workload = shop.workload
    golden = workload.splits.certify.take(np.arange(min(_GOLDEN, len(workload.splits.certify))))
    tensors = {name: np.array(np.load(path, mmap_mode="r")[: len(golden)]) for name, path in shop.tensors("certify").items()}
    outputs = judge.golden(answer, len(golden))
    document = evidence.document(finish, bundle=str(place), report=str(place / "report.html"), account=study.closed_account())
    lines = evidence.lines(
        job, workload, study, finish, trials, front, target=shop.target, run=_run(shop, study, command), answer=document,
        metric=judge.metric.name,
    )  # fmt: skip
    if finish.outcomes is not None:
        pair = judge.judged_outputs(judge.original, "certify"), judge.judged_outputs(answer, "certify")
        lines += evidence.disagreements(workload, *pair)
    return Contents(
        model=workload.name, answer=document, program=shop.compile(answer.runtime, answer.candidate).folder, runtime=answer.runtime,
        target=shop.target, candidate=answer.candidate, portable=answer.candidate.path if answer.candidate.floor is Floor.GRAPH else None,
        preprocess=workload.preprocess, labels=workload.labels, metric=judge.metric.name, output=workload.output,
        golden=golden, golden_tensors=tensors, golden_outputs=outputs, evidence=lines,
        front=[evidence.trial_line(t, on_front=True) for t in front], limits=job.limits.model_dump(mode="json"),
    )  # fmt: skip


def _run(shop: Workshop, study: Study, command: str) -> Mapping[str, Any]:
    busy = study.busiest > _BUSY
    sentence = f"Other processes took up to {100 * study.busiest:.0f} % of the machine while programs were timed: " + (
        "ratios hold, absolute times are too high." if busy else "the machine was quiet."
    )
    counts: dict[str, Any] = {}
    original = shop.workload.original
    graph = next((t.candidate for t in study.trials.values() if t.candidate.floor is Floor.GRAPH), original)
    try:
        counts = shop.count(graph) if graph.floor is Floor.GRAPH else {}
    except HastenError as error:
        study.learn(f"not counted: {error}")
    return {
        "command": command, "machine": this_machine().to_json(), "versions": versions(*_PACKAGES),
        "started": (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=study.elapsed)).isoformat(timespec="seconds"),
        "load": {"now": load_average(), "others_busy": study.busiest, "busy": busy, "sentence": sentence},
        "flops": counts.get("flops"), "parameters": counts.get("parameters"),
    }  # fmt: skip
