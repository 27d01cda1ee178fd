"""Quality: a trial's outputs against the original's, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

from ..core.candidate import Floor
from ..core.errors import HastenError
from ..core.measurement import Interval, Verdict
from ..core.samples import SPLITS, SplitName
from ..core.trial import Trial
from ..measure.quality import Metric, others
from ..measure.sequential import Sequential, looks
from .forecast import probability_within
from .opening import output_spec
from .workshop import Evaluator, Workshop

_ORIGINAL_BATCH = 32  # samples a call of an original in eager PyTorch, which would take long one by one

PARITY = 1e-4
"""Lossless means: no output differs by more than this, relative to the largest output (or 1)."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What sampling taught. state: in (surely within the limit), out (surely not), unsure; drop: in points, so far."""

    state: str
    drop: Interval
    num_samples: int


class Judge:
    """Judges trials by one metric against the original, whose outputs are computed once.

    original: the trial that defines right; limit: points that may be lost.
    """

    def __init__(self, workshop: Workshop, original: Trial, metric: Metric, limit: float) -> None:
        self.shop, self.original, self.metric, self.limit = workshop, original, metric, limit
        self._evaluators: dict[tuple[str, SplitName], Evaluator] = {}
        self.seconds_per_sample: dict[str, float] = {}

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        for evaluator in self._evaluators.values():
            evaluator.__exit__()

    def num_samples(self, split: SplitName) -> int:
        return len(self.shop.workload.splits[split])

    def first_look(self) -> int:
        """How many samples of `select` the cheapest check uses."""
        return looks(self.num_samples("select"))[0]

    def check(self) -> None:
        """That every sample can be given to the model, and that the labels suit the metric and the judged output.

        Raises DataError, JobError, MissingExtra.
        """
        for split in SPLITS:
            self.shop.tensors(split)
        few = self._outputs(self.original, "select", 0, self.first_look())[self.shop.workload.output]
        for split in SPLITS:
            labels = self.shop.workload.splits[split].labels
            self.metric.check(few if labels is None else np.resize(few, (len(labels), *few.shape[1:])), labels)

    def parity(self, trial: Trial) -> Verdict:
        """Whether a lossless trial computes what the original computes, on real samples. Raises HastenError."""
        stop = self.first_look()
        want, got = self._outputs(self.original, "select", 0, stop), self._outputs(trial, "select", 0, stop)
        worst = 0.0
        for name, expected in want.items():
            actual = got[name]
            if expected.shape != actual.shape or not np.isfinite(actual).all():
                return Verdict(outcome="failed", reason=f"output {name!r} is not finite or has another shape", method="parity")
            scale = max(1.0, float(np.abs(expected).max(initial=0)))
            worst = max(worst, float(np.abs(expected.astype(np.float64) - actual).max(initial=0)) / scale)
        good = worst <= PARITY
        sentence = f"outputs differ by at most {worst:.1e} of the largest on {stop} real samples (allowed {PARITY:.0e})"
        return Verdict(outcome="passed" if good else "failed", reason=sentence, method="parity")

    def sane(self, trial: Trial) -> str | None:
        """Why a lossy trial is not worth timing, or None: it must run, and give finite outputs. Raises HastenError."""
        for name, output in self._outputs(trial, "select", 0, self.first_look()).items():
            if not np.isfinite(output).all():
                return f"output {name!r} holds NaN or infinity"
        return None

    def sample(self, trial: Trial) -> Judged:
        """Sequential quality on `select`: stops when the trial is surely in or surely out. Raises HastenError."""
        test = Sequential(metric=self.metric, limit=self.limit, num_samples=self.num_samples("select"), seed=self.shop.seed)
        for reference, candidate in self.growing(trial, "select", looks(self.num_samples("select"))):
            look = test.look(reference, candidate)
            if look.decision != "go on":
                break
        return Judged(state=look.decision, drop=look.drop_in, num_samples=look.num_samples)

    def is_likely(self, drop: Interval) -> bool:
        """Whether a drop that was seen on `select` would pass on `certify`, if it stays what it is."""
        return self.margin(drop) >= 0

    def margin(self, drop: Interval) -> float:
        """How far below the limit, in points, the bound on `certify` would be, if a drop stays what it was on `select`.

        The half-width that certify will have follows from the number of samples; both share their error rate, so the levels are alike.
        """
        return self.limit - (drop.value + _half(drop, self.num_samples("certify")))

    def chance(self, drop: Interval) -> float:
        """Probability that the bound on `certify` will be below the limit, after a drop that was seen on `select`: both may be off."""
        half = _half(drop, self.num_samples("certify"))
        deviation = math.hypot(drop.high - drop.value, half) / stats.norm.ppf(0.5 + 0.5 * drop.level)
        return probability_within(-self.margin(drop), deviation, 0.0)

    def rows(self, trial: Trial, split: SplitName) -> tuple[np.ndarray, np.ndarray]:
        """Per-sample outcomes of the original and of the trial over the whole split, paired."""
        pair: tuple[np.ndarray, np.ndarray] | None = None
        for pair in self.growing(trial, split, _pieces(self.num_samples(split))):
            self.shop.study.observer.trying(f"quality on {split}", "", len(pair[0]) / self.num_samples(split))
        if pair is None:
            raise HastenError(f"split {split}", "must not be empty")
        return pair

    def judged_outputs(self, trial: Trial, split: SplitName) -> np.ndarray:
        """The judged output over the whole split: [N, ...]."""
        cuts = [0, *_pieces(self.num_samples(split))]
        name = self.shop.workload.output
        return np.concatenate([self._outputs(trial, split, a, b)[name] for a, b in pairwise(cuts)])

    def metrics(self, trial: Trial, split: SplitName) -> dict[str, float]:
        """Every metric that can be computed for the judged output, over the whole split."""
        labels = self.shop.workload.splits[split].labels
        ours, right = self.judged_outputs(trial, split), self.judged_outputs(self.original, split)
        every = [self.metric, *others(self.metric, labels, output_spec(self.shop.workload))]
        return {m.name: m.value(m.outcomes(ours, right, labels)) for m in every}

    def golden(self, trial: Trial, count: int) -> dict[str, np.ndarray]:
        """What the trial gives for the first `count` samples of the select split, all outputs."""
        return self._outputs(trial, "select", 0, count)

    def growing(self, trial: Trial, split: SplitName, stops: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Paired outcomes of the original and of the trial over the first samples of the split, up to each of `stops`."""
        labels, name = self.shop.workload.splits[split].labels, self.shop.workload.output
        reference: list[np.ndarray] = []
        candidate: list[np.ndarray] = []
        for start, stop in zip([0, *stops], stops, strict=False):
            wanted = None if labels is None else labels[start:stop]
            right = self._outputs(self.original, split, start, stop)[name]
            ours = self._outputs(trial, split, start, stop)[name]
            reference.append(self.metric.outcomes(right, right, wanted))
            candidate.append(self.metric.outcomes(ours, right, wanted))
            yield np.concatenate(reference), np.concatenate(candidate)

    def _outputs(self, trial: Trial, split: SplitName, start: int, stop: int) -> dict[str, np.ndarray]:
        key = (trial.id, split)
        if key not in self._evaluators:
            self._close_idle(keep=key)
            # What ships is judged as it will be called: runtimes round differently for other batch sizes.
            slow = trial.id == self.original.id and trial.candidate.floor is Floor.MODULE
            batch_size = _ORIGINAL_BATCH if slow else self.shop.target.batch_size
            self._evaluators[key] = self.shop.evaluator(trial, split, batch_size)
        outputs = self._evaluators[key].outputs(start, stop)
        self.seconds_per_sample[trial.id] = self._evaluators[key].seconds_per_sample
        return outputs

    def _close_idle(self, keep: tuple[str, SplitName]) -> None:
        # At most the original and one other keep a process each: sleeping children cost memory.
        for key in [k for k in self._evaluators if k[0] != self.original.id and k != keep]:
            self._evaluators.pop(key).__exit__()


def _pieces(n: int) -> list[int]:
    return [*range(1024, n, 1024), n]


def _half(drop: Interval, num_samples: int) -> float:
    """How far the bound of a drop would be from it on so many samples."""
    return (drop.high - drop.value) * math.sqrt(drop.n / num_samples)
