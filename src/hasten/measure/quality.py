"""What "good" means: metrics whose outcomes are kept per sample, so that every comparison is paired.

Legend: N samples, C classes, k numbers per sample. An output becomes classes like this (`predicted`):

    [N, C], [N, C, ...]     argmax over axis 1 (segmentation: one class a pixel)
    [N] or [N, 1], floats   a single logit: class 1 where it is above 0, else class 0
    [N] or [N, 1], integers the class itself

An output that is NaN is of no class (-1), which is never right. Definitions are scikit-learn's (tests hold it); fidelity metrics
compare with the original model's own output and need no labels.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..core.errors import DataError, JobError
from ..core.measurement import Interval
from ..core.need import has, need
from ..core.signature import TensorSpec
from . import statistics

MAX_CLASSES = 5000
"""A [N, C] output with more columns than this is taken for features, not for class scores."""

SQNR_RANGE_DB = 120.0
"""Signal-to-noise ratios are clipped to plus and minus this: float32 rounding lies near 140 dB."""

_Rows = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


def _mean(rows: np.ndarray) -> float:
    return float(rows.mean())


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measure of quality.

    name: what the job file says; help: definition and source; unit: of `value`; loss_unit: of `drop`; needs: the labels it
    needs: class numbers, real targets, or nothing (fidelity to the original's output); kind: rate and mean are means of
    per-sample rows, aggregate is not; outcomes(output [N, ...], reference_output [N, ...], labels or None): the rows that are kept for
    pairing, [N] or [N, k]; value(rows): the metric's number; resampled(rows): the same number, quickly, for resampling.
    """

    name: str
    help: str
    unit: str
    needs: Literal["classes", "targets", "nothing"]
    kind: Literal["rate", "mean", "aggregate"]
    outcomes: _Rows
    higher_is_better: bool = True
    value: statistics.Statistic = _mean
    resampled: statistics.Statistic = _mean
    loss_unit: str = "points"
    package: str | None = None

    def drop(self, reference_rows: np.ndarray, candidate_rows: np.ndarray, *, alpha: float, seed: int = 0) -> Interval:
        """What was lost, positive where it is worse; `low` and `high` are one-sided bounds at level 1 - alpha.

        In points (hundredths). Of errors (mse, mae): percent of the reference's own value; of sqnr: noise power in percent of
        the signal's.
        """
        if self.kind == "aggregate":
            return statistics.aggregate_drop(self.resampled, reference_rows, candidate_rows, alpha=alpha, seed=seed)
        if not self.higher_is_better:
            return statistics.error_increase(reference_rows, candidate_rows, alpha=alpha)
        reference_rows, candidate_rows = self._additive(reference_rows), self._additive(candidate_rows)
        if self.kind == "rate" and statistics.is_binary(reference_rows) and statistics.is_binary(candidate_rows):
            return statistics.rate_drop(reference_rows, candidate_rows, alpha=alpha)
        return statistics.mean_drop(reference_rows, candidate_rows, alpha=alpha)

    def needed(self, reference_rows: np.ndarray, candidate_rows: np.ndarray, limit: float, *, alpha: float, seed: int = 0) -> int | None:
        """How many samples would decide whether at most `limit` was lost (80 % power), or None where no count would."""
        if self.kind == "rate" and statistics.is_binary(reference_rows) and statistics.is_binary(candidate_rows):
            return statistics.needed_samples(reference_rows, candidate_rows, limit, alpha)
        drop = self.drop(reference_rows, candidate_rows, alpha=alpha, seed=seed)
        return statistics.needed_for_width(drop, limit, alpha)

    def check(self, output: np.ndarray, labels: np.ndarray | None) -> None:
        """Raises DataError where these labels [N, ...] cannot judge this output [N, ...] with this metric.

        For whole splits: a part of one may hold a single class.
        """
        if self.needs == "nothing":
            return
        if labels is None:
            raise DataError("data", f"must have labels for the metric {self.name}", hint="Without labels use agreement, cosine or sqnr")
        if len(labels) != len(output):
            raise DataError("data", "must have one label for each sample", got=f"{len(labels)} labels for {len(output)} samples")
        if self.needs == "classes":
            _check_classes(self.name, output, labels)
        elif labels.dtype.kind not in "fiub" or labels.size != output.size:
            raise DataError(
                "data", f"must have numeric targets like the output {output.shape} for {self.name}", got=f"{labels.dtype} {labels.shape}"
            )
        if self.name == "r2" and len(labels) < 2:
            raise DataError("data", "must hold at least two samples for r2", got=len(labels))

    def _additive(self, rows: np.ndarray) -> np.ndarray:
        """Rows whose mean's drop is meant: decibels do not add up, noise powers do."""
        return 1 - 10 ** (-rows / 10) if self.unit == "dB" else rows


def predicted(output: np.ndarray) -> np.ndarray:
    """The classes of an output, [N] or [N, ...]: see the table at the top. -1 where it is NaN."""
    if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
        flat = output.reshape(len(output))
        if flat.dtype.kind in "iub":
            return flat.astype(np.int64)
        return np.where(np.isnan(flat), -1, flat > 0).astype(np.int64)
    classes: np.ndarray = output.argmax(axis=1)
    return np.where(np.isnan(output).any(axis=1), -1, classes) if output.dtype.kind == "f" else classes


def get_metric(name: str) -> Metric:
    """The metric called `name`. Raises JobError, with the nearest name."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1)
        way = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(METRICS)}"
        raise JobError("quality.metric", "must name one of the metrics", got=name, hint=way)
    return METRICS[name]


def default_metric(labels: np.ndarray | None, output: TensorSpec) -> Metric:
    """accuracy with integer labels, mse with real ones; without labels agreement for class scores, else cosine."""
    if labels is not None:
        return METRICS["mse" if labels.dtype.kind == "f" else "accuracy"]
    return METRICS["agreement" if _looks_like_classes(output) else "cosine"]


def others(metric: Metric, labels: np.ndarray | None, output: TensorSpec) -> list[Metric]:
    """The metrics beside `metric` that can be computed too, with what is installed."""
    return [m for m in METRICS.values() if m is not metric and _computable(m, labels, output)]


def _computable(metric: Metric, labels: np.ndarray | None, output: TensorSpec) -> bool:
    if metric.package is not None and not has(metric.package):
        return False
    classes, single = _looks_like_classes(output), len(output.shape) == 1 or output.shape[1:] == (1,)
    if metric.needs == "nothing":
        return metric.name != "agreement" or (classes and (labels is None or labels.dtype.kind != "f"))
    if labels is None or (metric.needs == "targets") != (labels.dtype.kind == "f"):
        return False
    if metric.needs == "targets":
        return labels.ndim == len(output.shape) or (labels.ndim == 1 and single)
    if metric.name == "accuracy":
        return True
    if metric.name == "top5":
        return classes and (output.shape[1] or 0) > 5
    return labels.ndim == 1 and (classes or single)


def _looks_like_classes(output: TensorSpec) -> bool:
    columns = output.shape[1] if len(output.shape) == 2 else None
    return columns is not None and 2 <= columns <= MAX_CLASSES


def _check_classes(name: str, output: np.ndarray, labels: np.ndarray) -> None:
    if labels.dtype.kind not in "iub":
        raise DataError("data", f"must have integer class numbers as labels for {name}", got=str(labels.dtype))
    single = output.ndim == 1 or output.shape[1:] == (1,)
    if labels.size != (len(output) if single else output.size // output.shape[1]):
        raise DataError("data", f"must have one label for each class decision of the output {output.shape}", got=labels.shape)
    if name not in ("accuracy", "top5") and labels.size != len(labels):
        raise DataError("data", f"must have one label a sample for {name}", got=labels.shape)
    if name == "top5" and (output.ndim != 2 or single):
        raise DataError("quality.output", "must hold class scores [N, C] for top5", got=output.shape)
    classes = np.unique(labels)
    num_classes = 2 if single else output.shape[1]
    countable = not (single and output.dtype.kind in "iub")
    if classes[0] < 0 or (countable and classes[-1] >= num_classes):
        wrong = classes[0] if classes[0] < 0 else classes[-1]
        raise DataError("data", f"must have labels from 0 to {num_classes - 1}: the output has {num_classes} classes", got=int(wrong))
    if len(classes) < 2:
        raise DataError("data", "must hold at least two classes", got=f"only class {int(classes[0])}")
    if single and countable and output.min() >= 0 and output.max() <= 1:
        raise DataError(
            "quality.output", "must be a logit where it is a single number (class 1 is above 0)", got="probabilities",
            hint="Leave out the last sigmoid, or give two columns",
        )  # fmt: skip


def _per_sample(values: np.ndarray) -> np.ndarray:
    """[N, ...] -> [N], the mean of each sample; float64, so that many pixels do not round."""
    means: np.ndarray = values.reshape(len(values), -1).mean(axis=1, dtype=np.float64)
    return means


def _flat(values: np.ndarray) -> np.ndarray:
    """[N, ...] -> [N, k] in float64."""
    return values.reshape(len(values), -1).astype(np.float64)


def _accuracy(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    classes = predicted(output)
    return _per_sample(classes == labels.reshape(classes.shape))


def _top5(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    labels = labels.reshape(-1, 1)
    own = np.take_along_axis(output, labels, axis=1)
    # Of equal scores the higher class comes first, as in sklearn.metrics.top_k_accuracy_score: int8 outputs tie often.
    ahead = (output > own) | ((output == own) & (np.arange(output.shape[1]) > labels))
    among: np.ndarray = (ahead.sum(axis=1) < 5) & ~np.isnan(output).any(axis=1)
    return among.astype(np.float64)


def _classes(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    return np.stack([labels.reshape(-1).astype(np.int64), predicted(output).reshape(-1)], axis=1)


def _targets(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    return np.concatenate([_flat(labels), _flat(output)], axis=1)


def _squared(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    return _no_nan(((_flat(output) - _flat(labels)) ** 2).mean(axis=1), np.inf)


def _absolute(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    return _no_nan(np.abs(_flat(output) - _flat(labels)).mean(axis=1), np.inf)


def _agreement(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    return _per_sample(predicted(output) == predicted(reference))


def _cosine(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    a, b = _flat(output), _flat(reference)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)  # exactly 1 by parity, and where both are zero
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(same, 1.0, _no_nan((a * b).sum(axis=1) / lengths, 0.0))


def _sqnr(output: np.ndarray, reference: np.ndarray, labels: Any) -> np.ndarray:
    signal, noise = (_flat(reference) ** 2).sum(axis=1), ((_flat(output) - _flat(reference)) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = np.where(noise == 0, SQNR_RANGE_DB, 10 * np.log10(signal / noise))
    clipped: np.ndarray = np.clip(_no_nan(decibels, -SQNR_RANGE_DB), -SQNR_RANGE_DB, SQNR_RANGE_DB)
    return clipped


def _no_nan(values: np.ndarray, instead: float) -> np.ndarray:
    return np.where(np.isnan(values), instead, values)


def _macro(which: int) -> tuple[statistics.Statistic, statistics.Statistic]:
    """scikit-learn's macro precision (0), recall (1) or F1 (2) of rows [label, predicted], and the same for resampling."""

    def value(rows: np.ndarray) -> float:
        metrics = need("sklearn.metrics", why="for precision, recall and F1")
        scores = metrics.precision_recall_fscore_support(rows[:, 0], rows[:, 1], average="macro", zero_division=0)
        return float(scores[which])

    def resampled(rows: np.ndarray) -> float:
        size = int(rows.max()) + 2
        true, guessed = (np.bincount(rows[:, side] + 1, minlength=size) for side in (0, 1))
        hits = np.bincount(rows[rows[:, 0] == rows[:, 1], 0] + 1, minlength=size)
        below = (guessed, true, (true + guessed) / 2)[which]
        present = true + guessed > 0
        return float((hits[present] / np.maximum(below[present], 0.5)).mean())

    return value, resampled


def _r2(rows: np.ndarray) -> float:
    targets, outputs = np.hsplit(rows, 2)
    return float(need("sklearn.metrics", why="for R2").r2_score(targets, outputs)) if np.isfinite(rows).all() else -np.inf


def _r2_resampled(rows: np.ndarray) -> float:
    targets, outputs = np.hsplit(rows, 2)
    around = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    left = ((targets - outputs) ** 2).sum(axis=0)
    # Constant targets: 1 if met exactly, else 0, which is scikit-learn's convention.
    return float(np.where(around > 0, 1 - left / np.where(around > 0, around, 1), left == 0).mean())


def _all() -> list[Metric]:
    (precision, precision_again), (recall, recall_again), (f1, f1_again) = (_macro(i) for i in range(3))
    # fmt: off
    return [
        Metric(name="accuracy", unit="points", needs="classes", kind="rate", outcomes=_accuracy,
               help="Share of samples (segmentation: of pixels) whose class is right. sklearn.metrics.accuracy_score."),
        Metric(name="top5", unit="points", needs="classes", kind="rate", outcomes=_top5,
               help="Share of samples whose class is among the five highest scores. sklearn.metrics.top_k_accuracy_score, k=5."),
        Metric(name="precision", unit="points", needs="classes", kind="aggregate", outcomes=_classes, value=precision,
               resampled=precision_again, package="sklearn",
               help="Mean over classes of the share of right ones among the predicted. sklearn.metrics.precision_score, macro."),
        Metric(name="recall", unit="points", needs="classes", kind="aggregate", outcomes=_classes, value=recall,
               resampled=recall_again, package="sklearn",
               help="Mean over classes of the share that was found. sklearn.metrics.recall_score, macro."),
        Metric(name="f1", unit="points", needs="classes", kind="aggregate", outcomes=_classes, value=f1,
               resampled=f1_again, package="sklearn",
               help="Mean over classes of the harmonic mean of precision and recall. sklearn.metrics.f1_score, macro."),
        Metric(name="mse", unit="target units squared", needs="targets", kind="mean", outcomes=_squared, higher_is_better=False,
               loss_unit="percent of the original's error",
               help="Mean squared error. sklearn.metrics.mean_squared_error. A loss is the increase in percent of the original's."),
        Metric(name="mae", unit="target units", needs="targets", kind="mean", outcomes=_absolute, higher_is_better=False,
               loss_unit="percent of the original's error",
               help="Mean absolute error. sklearn.metrics.mean_absolute_error. A loss is the increase in percent of the original's."),
        Metric(name="r2", unit="points", needs="targets", kind="aggregate", outcomes=_targets, value=_r2, resampled=_r2_resampled,
               package="sklearn", help="Share of the targets' variance that is explained, mean over outputs. sklearn.metrics.r2_score."),
        Metric(name="agreement", unit="points", needs="nothing", kind="rate", outcomes=_agreement,
               help="Share of samples (segmentation: of pixels) whose class is the original model's. Fidelity: no labels are needed."),
        Metric(name="cosine", unit="points", needs="nothing", kind="mean", outcomes=_cosine,
               help="Mean cosine between a sample's output, flattened, and the original model's. Fidelity: no labels are needed."),
        Metric(name="sqnr", unit="dB", needs="nothing", kind="mean", outcomes=_sqnr, loss_unit="percent of the signal's power",
               help="Mean ratio of the power of the original model's output to that of the difference from it, within 120 dB. "
                    "A loss is the power of the difference in percent of the signal's: 1 is 20 dB. Fidelity: no labels are needed."),
    ]
    # fmt: on


METRICS: dict[str, Metric] = {metric.name: metric for metric in _all()}
"""Every metric by name, in the order that a report shows them."""
