"""The drift watch's statistics: silent on samples like the certified ones, at the rate that it states; loud on others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.stats import binom

from hasten.bundle.distribution import ALPHA, MAX_FEATURES, Distribution, Kind, jensen_shannon, summarise
from hasten.core.errors import BundleError
from hasten.core.signature import Signature, TensorSpec

CLASSES, SIDE = 7, 8
KIND = Kind(
    signature=Signature(
        inputs=(TensorSpec(name="pixels", dtype="float32", shape=(None, 3, SIDE, SIDE)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(None, CLASSES)),),
    ),
    output="scores",
    classifier=True,
    probabilities=False,
)
Arrays = dict[str, np.ndarray]


def drawn(count: int, rng: np.random.Generator, *, brightness: float = 0.0, only: int = CLASSES) -> tuple[Arrays, Arrays]:
    """Pictures whose channels depend on their class, and scores that know it. only: the classes that there are."""
    classes = rng.integers(only, size=count)
    colour = np.stack([np.sin(classes), np.cos(classes), classes / CLASSES], axis=1)[:, :, None, None]
    pixels = colour + rng.normal(size=(count, 1, 1, 1)) * 0.5 + rng.normal(size=(count, 3, SIDE, SIDE)) + brightness
    scores = 3.0 * np.eye(CLASSES)[classes] + rng.normal(size=(count, CLASSES))
    return {"pixels": pixels.astype(np.float32)}, {"scores": scores.astype(np.float32)}


def certified(count: int = 1000, seed: int = 0) -> Distribution:
    return summarise(*drawn(count, np.random.default_rng(seed)), KIND)


def alarm(distribution: Distribution, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> list[str]:
    numbers = KIND.numbers(inputs, outputs)
    bins = {feature.name: feature.bins(numbers[feature.name]) for feature in distribution.features}
    return [difference.name for difference in distribution.compare(bins) if difference.alarm]


@pytest.mark.parametrize("count", [100, 400, 5000])
@pytest.mark.parametrize("window", [100, 500])
def test_samples_of_the_same_source_give_an_alarm_at_most_as_often_as_is_said(count: int, window: int) -> None:
    """Each time another certify split and another window. What the error rate allows is exceeded once in a million runs of this test."""
    rng, times = np.random.default_rng(count + window), 300
    alarms = sum(bool(alarm(certified(count, seed=int(rng.integers(2**32))), *drawn(window, rng))) for _ in range(times))
    assert alarms <= binom.ppf(1 - 1e-6, times, ALPHA)


def test_the_certify_split_drawn_again_is_silent() -> None:
    rng = np.random.default_rng(5)
    inputs, outputs = drawn(2000, rng)
    known, alarms = summarise(inputs, outputs, KIND), 0
    for _ in range(300):
        chosen = rng.integers(2000, size=500)
        alarms += bool(alarm(known, {"pixels": inputs["pixels"][chosen]}, {"scores": outputs["scores"][chosen]}))
    assert alarms <= binom.ppf(1 - 1e-6, 300, ALPHA)


def test_brighter_pictures_are_seen_in_the_mean_of_every_channel() -> None:
    for seed in range(20):
        found = alarm(certified(seed=seed), *drawn(500, np.random.default_rng(100 + seed), brightness=0.5))
        assert {"pixels[0] mean", "pixels[1] mean", "pixels[2] mean"} <= set(found)
        assert "class" not in found


def test_other_classes_are_seen_in_the_class() -> None:
    for seed in range(20):
        assert "class" in alarm(certified(seed=seed), *drawn(500, np.random.default_rng(100 + seed), only=4))


def test_a_class_that_was_never_certified_is_seen() -> None:
    known = summarise(*drawn(1000, np.random.default_rng(0), only=4), KIND)
    assert "class" in alarm(known, *drawn(500, np.random.default_rng(1)))


def test_a_constant_that_changes_is_seen_and_one_that_stays_is_not() -> None:
    kind = Kind(
        signature=Signature(
            inputs=(TensorSpec(name="x", dtype="float32", shape=(None, 2)),),
            outputs=(TensorSpec(name="y", dtype="float32", shape=(None, 1)),),
        ),
        output="y",
        classifier=False,
        probabilities=False,
    )  # fmt: skip
    x = np.stack([np.full(500, 3.0), np.random.default_rng(0).normal(size=500)], axis=1)
    known = summarise({"x": x}, {}, kind)
    for value, expected in ((3.0, []), (3.1, ["x[0]"])):
        x[:, 0] = value
        numbers = kind.numbers({"x": x}, {})
        found = known.compare({f.name: f.bins(numbers[f.name]) for f in known.features})
        assert [d.name for d in found if d.alarm] == expected


def test_many_samples_make_a_small_difference_sure_but_not_large() -> None:
    """A window that is large enough shows anything; what is too little to matter is no alarm."""
    assert alarm(certified(50_000), *drawn(50_000, np.random.default_rng(1), brightness=0.05)) == []


def test_features_are_bounded_whatever_the_tensors() -> None:
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(300, 16)).astype(np.float32) for name in "abcd"}
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=(None, 16)) for name in inputs)
    scores = np.eye(1000, dtype=np.float32)[rng.integers(1000, size=300)]
    kind = Kind(signature=Signature(inputs=specs, outputs=()), output="scores", classifier=True, probabilities=True)
    made = summarise(inputs, {"scores": scores}, kind)
    assert len(made.features) == MAX_FEATURES
    assert made.features[0].name == "class"
    assert max(len(feature.counts) for feature in made.features) <= 32
    assert all(sum(feature.counts) == 300 for feature in made.features)


def test_divergence_is_nothing_for_equals_and_one_where_nothing_overlaps() -> None:
    assert jensen_shannon([1, 2, 3], [10, 20, 30]) == 0
    assert jensen_shannon([5, 0], [0, 9]) == 1
    assert jensen_shannon([1, 3], [3, 1]) == pytest.approx(0.18872, abs=1e-5)  # scipy.spatial.distance.jensenshannon(..., base=2) ** 2


def test_it_is_the_same_after_it_was_written() -> None:
    made = certified()
    assert Distribution.from_json(made.to_json()) == made
    with pytest.raises(BundleError, match=r"distribution\.json: cannot be read"):
        Distribution.from_json({"features": [{"name": "x"}]})
