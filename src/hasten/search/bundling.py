"""From a finish to a bundle on disk, with the evidence and the golden examples."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.manifest import is_bundle
from ..bundle.write import Contents, write
from ..core.candidate import Floor
from ..core.errors import DiskFull, HastenError
from ..core.job import Job
from ..core.machine import load_average, versions
from ..core.trial import Fate, Trial
from ..measure.cores import SHARED
from . import evidence
from .certify import Finish
from .front import Answer, Front, undominated
from .judge import Judge
from .study import Study
from .workshop import Workshop

_GOLDEN = 8
_QUICK_SECONDS = 5.0  # for the drift watch's sake a search does not become longer than that
_PACKAGES = ("hasten", "numpy", "scipy", "onnx", "onnxruntime", "openvino", "nncf", "onnxslim", "torch", "onnxscript", "pillow")
_BUSY = 0.15  # share of the machine that others may take before a report says so


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes what is known of a search as a bundle.

    place: where its answer goes; what is known before lies beside it, in `<place>.unfinished`; command: what repeats the search.
    """

    job: Job
    study: Study
    shop: Workshop
    judge: Judge
    place: Path
    command: str

    def write_so_far(self, finish: Finish) -> None:
        """The best so far, for whoever kills the search. The answer of an earlier search stays at `place` until there is a new one."""
        self._write(finish, self._beside)

    def write(self, finish: Finish) -> Front:
        """The front; its answer's bundle is at `place` afterwards, replacing an earlier one as a whole.

        Without an answer an earlier one stays. What was written while the search went on is removed.
        """
        front = self._write(finish, self.place)
        if is_bundle(self._beside):
            shutil.rmtree(self._beside)
        return front

    @property
    def _beside(self) -> Path:
        place = self.place.resolve()
        return place.with_name(f"{place.name}.unfinished")

    def _write(self, finish: Finish, place: Path) -> Front:
        trials = _in_order(self.study, finish)
        front = undominated(trials)
        with self.study.spending("bundle"):
            bundle = None if finish.answer is None else str(place)
            document = evidence.document(finish, bundle=bundle, account=self.study.closed_account())
            if finish.answer is not None:
                write(self._contents(finish, finish.answer, trials, front, document), place)
        answer = None if finish.answer is None else Answer(trial=finish.answer, bundle=place)
        return Front(trials=tuple(trials), document=document, answer=answer)

    def _contents(
        self, finish: Finish, answer: Trial, trials: Sequence[Trial], front: Sequence[Trial], document: Mapping[str, Any]
    ) -> Contents:
        shop, workload, judge = self.shop, self.shop.workload, self.judge
        golden = workload.splits.select.take(np.arange(min(_GOLDEN, len(workload.splits.select))))
        tensors = {name: np.array(np.load(path, mmap_mode="r")[: len(golden)]) for name, path in shop.tensors("select").items()}
        lines = evidence.lines(
            self.job, workload, self.study, finish, trials, front, target=shop.target, run=_run(shop, self.study, self.command),
            answer=document, metric=judge.metric.name,
        )  # fmt: skip
        if finish.outcomes is not None:
            pair = judge.judged_outputs(judge.original, "certify"), judge.judged_outputs(answer, "certify")
            lines += evidence.disagreements(workload, *pair)
        candidate = answer.candidate
        certify_inputs, certify_outputs = self._certified(finish, answer)
        return Contents(
            model=workload.name, answer=document, program=shop.compile(answer.runtime, candidate).folder, runtime=answer.runtime,
            target=shop.target, machine=shop.machine, candidate=candidate,
            portable=candidate.path if candidate.floor is Floor.GRAPH else None,
            preprocess=workload.preprocess, labels=workload.labels, metric=judge.metric.name, output=workload.output,
            certify_inputs=certify_inputs, certify_outputs=certify_outputs,
            golden=golden, golden_tensors=tensors, golden_outputs=judge.golden(answer, len(golden)), evidence=lines,
            front=[evidence.trial_line(t, on_front=True) for t in front], limits=self.job.limits.model_dump(mode="json"),
        )  # fmt: skip

    def _certified(self, finish: Finish, answer: Trial) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The certify split as the model sees it, on disk, and what the answer gave for it: known where it was certified by its outcomes.

        A lossless answer was not run over it: that is done now where it is quick, and otherwise only inputs are known.
        """
        if finish.verdict == "unfinished":
            return {}, {}
        inputs = {name: np.load(path, mmap_mode="r") for name, path in self.shop.tensors("certify").items()}
        takes = self.judge.num_samples("certify") * self.judge.seconds_per_sample.get(answer.id, math.inf)
        if finish.outcomes is None and takes > _QUICK_SECONDS:
            return inputs, {}
        try:
            return inputs, {self.shop.workload.output: self.judge.judged_outputs(answer, "certify")}
        except DiskFull:
            raise
        except HastenError as error:
            self.study.learn(f"what it gives for the certify split is not known: {error}")
            return inputs, {}


def _in_order(study: Study, finish: Finish) -> list[Trial]:
    """Every trial with all that is known of it: start, reference, answer first."""
    known = dict(study.trials)
    for trial in (finish.start, finish.reference, *finish.finalists):
        known[trial.id] = trial
    if finish.answer is not None:
        known[finish.answer.id] = finish.answer.with_(fate=Fate.ANSWER)
    first = [finish.start.id, finish.reference.id, *([finish.answer.id] if finish.answer else [])]
    return [known[i] for i in dict.fromkeys([*first, *known])]


def _run(shop: Workshop, study: Study, command: str) -> Mapping[str, Any]:
    busy = study.busiest > _BUSY
    sentence = f"Other processes took up to {100 * study.busiest:.0f} % of the machine while programs were timed: " + (
        "ratios hold, absolute times are too high." if busy else "the machine was quiet."
    )
    if study.slowdown > SHARED:
        sentence += (
            f" For a while its cores were shared: work in parallel took {study.slowdown:.1f} times as long as alone. "
            "Programs of several threads may look slower than they are."
        )
    counts: dict[str, Any] = {}
    original = shop.workload.original
    graph = next((t.candidate for t in study.trials.values() if t.candidate.floor is Floor.GRAPH), original)
    try:
        counts = shop.count(graph) if graph.floor is Floor.GRAPH else {}
    except DiskFull:
        raise
    except HastenError as error:
        study.learn(f"not counted: {error}")
    return {
        "command": command, "machine": shop.machine.to_json(), "versions": versions(*_PACKAGES),
        "started": study.started.isoformat(timespec="seconds"),
        "load": {"now": load_average(), "others_busy": study.busiest, "busy": busy, "sentence": sentence},
        "energy": shop.energy.to_json(), "flops": counts.get("flops"), "parameters": counts.get("parameters"),
    }  # fmt: skip
