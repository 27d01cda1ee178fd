"""Metrics equal scikit-learn's numbers, keep outcomes per sample, and refuse labels that cannot judge the output."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.core.errors import DataError, JobError
from hasten.core.signature import TensorSpec
from hasten.measure.quality import METRICS, Metric, default_metric, get_metric, others, predicted

sklearn_metrics = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 8, size=500)
SCORES = (np.eye(8)[LABELS] + RNG.normal(0, 0.6, size=(500, 8))).astype(np.float32)
COARSE = np.round(SCORES * 2) / 2  # many ties, as int8 outputs have
TARGETS = RNG.normal(size=(400, 3))
ESTIMATES = TARGETS + RNG.normal(0, 0.3, size=TARGETS.shape)


def number(name: str, output: np.ndarray, labels: np.ndarray | None, reference: np.ndarray | None = None) -> float:
    metric = METRICS[name]
    rows = metric.outcomes(output, output if reference is None else reference, labels)
    assert len(rows) == len(output)
    return metric.value(rows)


@pytest.mark.parametrize("scores", [SCORES, COARSE], ids=["distinct", "ties"])
@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("accuracy", lambda y, s: sklearn_metrics.accuracy_score(y, s.argmax(1))),
        ("top5", lambda y, s: sklearn_metrics.top_k_accuracy_score(y, s, k=5, labels=range(8))),
        ("precision", lambda y, s: sklearn_metrics.precision_score(y, s.argmax(1), average="macro")),
        ("recall", lambda y, s: sklearn_metrics.recall_score(y, s.argmax(1), average="macro")),
        ("f1", lambda y, s: sklearn_metrics.f1_score(y, s.argmax(1), average="macro")),
    ],
)
def test_class_metrics_are_scikit_learns(name: str, want: object, scores: np.ndarray) -> None:
    assert number(name, scores, LABELS) == pytest.approx(want(LABELS, scores), abs=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "want"),
    [("mse", sklearn_metrics.mean_squared_error), ("mae", sklearn_metrics.mean_absolute_error), ("r2", sklearn_metrics.r2_score)],
)
def test_target_metrics_are_scikit_learns(name: str, want: object) -> None:
    assert number(name, ESTIMATES, TARGETS) == pytest.approx(want(TARGETS, ESTIMATES), abs=1e-12)  # type: ignore[operator]
    single = number(name, ESTIMATES[:, :1], TARGETS[:, 0])
    assert single == pytest.approx(want(TARGETS[:, 0], ESTIMATES[:, 0]), abs=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["precision", "recall", "f1", "r2"])
def test_the_quick_form_for_resampling_is_the_same_number(name: str, seed: int) -> None:
    metric = METRICS[name]
    full = metric.outcomes(*((ESTIMATES, ESTIMATES, TARGETS) if name == "r2" else (SCORES, SCORES, LABELS)))
    rows = full[np.random.default_rng(seed).integers(0, len(full), 12)]  # classes go missing in small draws
    assert metric.resampled(rows) == pytest.approx(metric.value(rows), abs=1e-12)


@pytest.mark.parametrize("name", ["agreement", "cosine"])
def test_the_original_is_perfectly_faithful_to_itself(name: str) -> None:
    assert (METRICS[name].outcomes(SCORES, SCORES, None) == 1).all()


def test_agreement_compares_classes_and_cosine_directions() -> None:
    other = SCORES.copy()
    other[0] = -other[0]
    assert number("agreement", other, None, SCORES) == pytest.approx(1 - 1 / 500)
    assert METRICS["cosine"].outcomes(other, SCORES, None)[:2] == pytest.approx([-1, 1])
    assert METRICS["cosine"].outcomes(np.zeros((1, 3)), np.ones((1, 3)), None)[0] == 0


def test_sqnr_is_decibels_and_its_drop_is_noise_power() -> None:
    metric = METRICS["sqnr"]
    rows, own = metric.outcomes(1.1 * SCORES, SCORES, None), metric.outcomes(SCORES, SCORES, None)
    assert rows == pytest.approx(np.full(500, 20.0), abs=1e-3)
    assert (own == 120).all()
    assert metric.drop(own, rows, alpha=0.05).value == pytest.approx(1.0, abs=1e-3)


def test_outputs_become_classes() -> None:
    assert predicted(np.array([[0.1, 0.9], [0.8, 0.2]])).tolist() == [1, 0]
    assert predicted(np.array([0.3, -0.2])).tolist() == [1, 0]
    assert predicted(np.array([[0.3], [-0.2]])).tolist() == [1, 0]
    assert predicted(np.array([4, 2])).tolist() == [4, 2]
    assert predicted(RNG.normal(size=(2, 3, 4, 5))).shape == (2, 4, 5)
    assert predicted(np.array([[np.nan, np.nan], [0, 1.0]])).tolist() == [-1, 1]


def test_pixels_are_averaged_within_their_picture() -> None:
    maps = RNG.normal(size=(3, 4, 6, 6))
    other = maps.copy()
    other[0, :, :3] = -other[0, :, :3]
    rows = METRICS["agreement"].outcomes(other, maps, None)
    assert rows.shape == (3,)
    assert rows[0] == pytest.approx(0.5)
    assert (rows[1:] == 1).all()
    labels = maps.argmax(axis=1)
    assert METRICS["accuracy"].outcomes(maps, maps, labels).tolist() == [1, 1, 1]
    METRICS["accuracy"].check(maps, labels)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_nan_outputs_are_never_good(name: str) -> None:
    metric = METRICS[name]
    good, labels = (ESTIMATES, TARGETS) if metric.needs == "targets" else (SCORES, LABELS)
    rows, own = metric.outcomes(np.full_like(good, np.nan), good, labels), metric.outcomes(good, good, labels)
    drop = metric.drop(own, rows, alpha=0.05)
    assert drop.low > 10


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_worse_candidate_loses_and_the_turned_comparison_wins(name: str) -> None:
    metric = METRICS[name]
    good, labels = (ESTIMATES, TARGETS) if metric.needs == "targets" else (SCORES, LABELS)
    worse = good + RNG.normal(0, 1, size=good.shape)
    own, rows = metric.outcomes(good, good, labels), metric.outcomes(worse, good, labels)
    lost, won = metric.drop(own, rows, alpha=0.05), metric.drop(rows, own, alpha=0.05)
    assert 0 < lost.low <= lost.value <= lost.high
    assert won.high < 0
    assert (metric.value(rows) < metric.value(own)) == metric.higher_is_better


@pytest.mark.parametrize("name", sorted(METRICS))
def test_needed_samples_are_more_than_there_are_while_undecided(name: str) -> None:
    metric = METRICS[name]
    good, labels = (ESTIMATES, TARGETS) if metric.needs == "targets" else (SCORES, LABELS)
    worse = good + np.random.default_rng(2).normal(0, 0.5, size=good.shape)
    own, rows = metric.outcomes(good, good, labels), metric.outcomes(worse, good, labels)
    drop = metric.drop(own, rows, alpha=0.05)
    needed = metric.needed(own, rows, (drop.value + drop.high) / 2, alpha=0.05)
    assert needed is not None
    assert needed > len(rows)


@pytest.mark.parametrize(
    ("name", "output", "labels", "message"),
    [
        ("accuracy", SCORES, None, "data: must have labels for the metric accuracy. Without labels use agreement, cosine or sqnr."),
        ("accuracy", SCORES, LABELS[:5], "data: must have one label for each sample, but got '5 labels for 500 samples'."),
        ("accuracy", SCORES, LABELS + 1, "data: must have labels from 0 to 7: the output has 8 classes, but got 8."),
        ("accuracy", SCORES, LABELS - 1, "data: must have labels from 0 to 7: the output has 8 classes, but got -1."),
        ("accuracy", SCORES, np.full(500, 3), "data: must hold at least two classes, but got 'only class 3'."),
        ("f1", SCORES, LABELS.astype(float), "data: must have integer class numbers as labels for f1, but got 'float64'."),
        ("mse", ESTIMATES, TARGETS[:, 0], "data: must have numeric targets like the output (400, 3) for mse, but got 'float64 (400,)'."),
        ("top5", SCORES[:, 0], LABELS % 2, "quality.output: must hold class scores [N, C] for top5, but got (500,)."),
        ("accuracy", 1 / (1 + np.exp(-SCORES[:, 0])), LABELS % 2,
         "quality.output: must be a logit where it is a single number (class 1 is above 0), but got 'probabilities'. "
         "Leave out the last sigmoid, or give two columns."),
    ],
)  # fmt: skip
def test_labels_that_cannot_judge_the_output_are_refused(name: str, output: np.ndarray, labels: np.ndarray | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        METRICS[name].check(output, labels)
    assert str(caught.value) == message


def test_good_labels_are_accepted() -> None:
    METRICS["accuracy"].check(SCORES, LABELS)
    METRICS["f1"].check(SCORES[:, :1] - 0.5, LABELS % 2)
    METRICS["mse"].check(ESTIMATES, TARGETS)
    METRICS["cosine"].check(SCORES, None)


def spec(*shape: int | None) -> TensorSpec:
    return TensorSpec(name="y", dtype="float32", shape=shape)


@pytest.mark.parametrize(
    ("labels", "shape", "want"),
    [
        (LABELS, (None, 8), "accuracy"),
        (TARGETS, (None, 3), "mse"),
        (None, (None, 1000), "agreement"),
        (None, (None, 1), "cosine"),
        (None, (None, 10_000), "cosine"),
        (None, (None, 16, 384), "cosine"),
    ],
)
def test_the_default_metric_follows_from_labels_and_output(labels: np.ndarray | None, shape: tuple[int | None, ...], want: str) -> None:
    assert default_metric(labels, spec(*shape)).name == want


def names(found: list[Metric]) -> list[str]:
    return [metric.name for metric in found]


def test_others_are_those_that_can_be_computed() -> None:
    assert names(others(METRICS["accuracy"], LABELS, spec(None, 8))) == ["top5", "precision", "recall", "f1", "agreement", "cosine", "sqnr"]
    assert names(others(METRICS["accuracy"], LABELS, spec(None, 4)))[0] == "precision"
    assert names(others(METRICS["mse"], TARGETS, spec(None, 3))) == ["mae", "r2", "cosine", "sqnr"]
    assert names(others(METRICS["cosine"], None, spec(None, 16, 384))) == ["sqnr"]
    assert names(others(METRICS["accuracy"], LABELS, spec(None, 8, 4, 4))) == ["cosine", "sqnr"]


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(JobError) as caught:
        get_metric("acuracy")
    assert str(caught.value) == "quality.metric: must name one of the metrics, but got 'acuracy'. Did you mean 'accuracy'?"
    assert get_metric("f1") is METRICS["f1"]


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.help.endswith(".")
        assert metric.unit
        assert metric.loss_unit
