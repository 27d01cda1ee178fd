"""The division into splits: stratified, seeded, by content, and without leaks."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.core.errors import DataError
from hasten.core.samples import SPLITS, Samples, Splits, as_parts, make_splits


def labelled(*counts: int) -> Samples:
    """`counts[c]` different samples of each class c."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return Samples(inputs={"x": np.arange(len(labels) * 2, dtype=np.float32).reshape(-1, 2)}, labels=labels)


def members(splits: Splits) -> dict[str, set[float]]:
    return {name: set(splits[name].inputs["x"][:, 0].tolist()) for name in SPLITS}


def test_one_set_is_divided_10_30_60_in_every_class() -> None:
    splits = make_splits({"all": labelled(100, 50, 20)})
    for name, fraction in zip(SPLITS, (0.1, 0.3, 0.6), strict=True):
        labels = splits[name].labels
        assert labels is not None
        assert np.abs(np.bincount(labels) - np.array([100, 50, 20]) * fraction).max() <= 1


def test_one_sample_a_class_is_divided_10_30_60_as_a_whole() -> None:
    splits = make_splits({"all": labelled(*[1] * 100)})
    assert [len(splits[name]) for name in SPLITS] == [10, 30, 60]


def test_ten_samples_without_labels_are_enough() -> None:
    for seed in range(20):
        splits = make_splits({"all": Samples(inputs={"": np.arange(10.0)})}, seed=seed)
        assert [len(splits[name]) for name in SPLITS] == [1, 3, 6]


def test_every_sample_is_in_exactly_one_split() -> None:
    groups = members(make_splits({"all": labelled(30, 30)}))
    assert sum(len(group) for group in groups.values()) == 60
    assert len(set.union(*groups.values())) == 60


def test_the_seed_decides_the_division() -> None:
    data = labelled(60, 60)
    assert make_splits({"all": data}, seed=3).digest == make_splits({"all": data}, seed=3).digest
    assert members(make_splits({"all": data}, seed=3)) != members(make_splits({"all": data}, seed=4))


def test_the_order_of_the_samples_does_not_count() -> None:
    data = labelled(40, 20)
    shuffled = data.take(np.random.default_rng(0).permutation(60))
    assert make_splits({"all": data}).digest == make_splits({"all": shuffled}).digest


def test_copies_inside_one_set_are_kept_once() -> None:
    data = labelled(20, 20)
    twice = data.take([*range(40), *range(40)])
    assert make_splits({"all": twice}).digest == make_splits({"all": data}).digest


def test_targets_are_divided_without_strata() -> None:
    data = Samples(inputs={"x": np.arange(200.0).reshape(100, 2)}, labels=np.linspace(0, 1, 100))
    splits = make_splits({"all": data})
    assert [len(splits[name]) for name in SPLITS] == [10, 30, 60]
    assert splits.labelled


def test_labels_stay_with_their_samples() -> None:
    splits = make_splits({"all": labelled(30, 30, 30)})
    for name in SPLITS:
        assert (splits[name].labels == splits[name].inputs["x"][:, 0] // 60).all()


def test_a_leak_between_given_splits_is_refused() -> None:
    data = labelled(10, 10)
    parts = {"calibrate": data.take([0, 1]), "select": data.take([2, 3]), "certify": data.take([4, 1, 5])}
    with pytest.raises(DataError) as caught:
        make_splits(parts)
    assert str(caught.value) == (
        "data: must not share samples between splits: 1 samples of calibrate are in certify too (the first at certify[1]). "
        "Remove the copies: a leak makes the certificate worthless."
    )


def test_given_splits_are_kept_as_they_are() -> None:
    data = labelled(10, 10)
    splits = make_splits({"calibrate": data.take([0]), "select": data.take([3, 2]), "certify": data.take([4])})
    assert splits.select.inputs["x"][:, 0].tolist() == [6.0, 4.0]


def test_given_splits_must_name_the_same_classes() -> None:
    parts = {
        name: Samples(inputs={"x": np.full((1, 1), k)}, labels=np.zeros(1, int), classes=classes)
        for k, (name, classes) in enumerate(zip(SPLITS, [("cat", "dog"), ("cat", "dog"), ("dog",)], strict=True))
    }
    with pytest.raises(DataError) as caught:
        make_splits(parts)
    assert str(caught.value) == (
        "data.certify: must have the class names of data.calibrate, but got 'a difference in cat'. List all class names in data.labels."
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"all": labelled(4, 5)}, "data: must hold at least 10 different samples to be divided into three splits, but got 9."),
        ({"all": Samples(inputs={})}, "data: must hold at least one sample, but got 'none'."),
        ({"all": Samples(inputs={"x": np.zeros((0, 2))})}, "data: must hold at least one sample, but got 'none'."),
        (
            {"all": Samples(inputs={"x": np.zeros((3, 2))}, labels=np.zeros(2))},
            "data: must have the same number of samples in every array, but got {'x': 3, 'labels': 2}.",
        ),
        (
            {"all": Samples(inputs={"x": np.array([[1.0], [np.nan]])})},
            "data.x: must be finite, but got 'NaN or infinity in sample 1'.",
        ),
        (
            {"all": Samples(inputs={"x": np.array([[1.0], [2.0]])}, labels=np.array([np.inf, 1]))},
            "data.labels: must be finite, but got 'NaN or infinity in sample 0'.",
        ),
        (
            {"calibrate": labelled(3), "select": labelled(3)},
            "data: must be one set, or the three splits calibrate, select and certify, but got ['calibrate', 'select'].",
        ),
    ],
)
def test_what_cannot_be_divided_is_told_in_one_line(parts: dict[str, Samples], message: str) -> None:
    with pytest.raises(DataError) as caught:
        make_splits(parts)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


# What Python users give ---------------------------------------------------------------------------------------------

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([0, 1, 0, 1, 0, 1])


class Tensor:
    """What as_parts relies on in a tensor of torch."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray:
        return self.array


@pytest.mark.parametrize(
    ("content", "inputs", "has_labels"),
    [
        (X, {""}, False),
        ((X, Y), {""}, True),
        ((X, None), {""}, False),
        (X.tolist(), {""}, False),
        ({"a": X, "b": X}, {"a", "b"}, False),
        ({"a": X, "b": X, "target": Y}, {"a", "b"}, True),
        (({"a": X, "b": X}, Y), {"a", "b"}, True),
        ((Tensor(X), Tensor(Y)), {""}, True),
        (([b"one", b"two"], [0, 1]), {""}, True),
        (Samples(inputs={"q": X}, labels=Y), {"q"}, True),
        ((X, Y.astype(bool)), {""}, True),
        ((X, Y.astype(np.uint8)), {""}, True),
        ((X, Y[:, None]), {""}, True),
    ],
)
def test_every_form_of_one_set_is_understood(content: object, inputs: set[str], has_labels: bool) -> None:
    parts = as_parts(content)
    assert set(parts) == {"all"}
    assert set(parts["all"].inputs) == inputs
    if has_labels:
        assert parts["all"].labels is not None
        assert parts["all"].labels.dtype == np.int64
        assert parts["all"].labels.tolist() == Y.tolist()[: len(parts["all"])]
    else:
        assert parts["all"].labels is None


def test_splits_by_name_take_the_same_forms() -> None:
    parts = as_parts({"calibrate": X, "select": (X + 100, Y), "certify": {"x": X + 200, "y": Y}})
    assert list(parts) == ["calibrate", "select", "certify"]
    assert set(parts["certify"].inputs) == {"x"}
    assert as_parts(parts) == parts


def test_float_labels_stay_targets() -> None:
    labels = as_parts((X, Y / 2))["all"].labels
    assert labels is not None
    assert labels.dtype == np.float64


def test_pictures_of_different_sizes_stay_a_list() -> None:
    pictures = [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 6, 3), np.uint8)]
    assert as_parts(pictures)["all"].inputs[""] is pictures


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "data: must be an array of numbers [N, ...], a dict of them, or a list of pictures, but got 'an object of type NoneType'."),
        ("x.npz", "data: must be an array of numbers [N, ...], a dict of them, or a list of pictures, but got 'an object of type str'."),
        ((X, Y, Y), "data: must be inputs or a tuple (inputs, labels), but got 'a tuple of 3'."),
        ({}, "data: must hold at least one input, but got 'an empty dict'."),
        ({"y": Y}, "data: must hold at least one input, but got 'an empty dict'."),
        (np.float32(3), "data: must be an array of numbers [N, ...], but got 'float32 ()'."),
        ({"a": np.array(["u", "v"])}, "data.a: must be an array of numbers [N, ...], but got '<U1 (2,)'."),
        (
            (X, ["cat"] * 6),
            "data.labels: must be an array of numbers [N, ...], but got '<U3 (6,)'. "
            "Number text classes: numpy.unique(labels, return_inverse=True)[1].",
        ),
        ({"calibrate": X, "select": X, "certify": "no"}, "data.certify: must be an array of numbers [N, ...], a dict of them, "
         "or a list of pictures, but got 'an object of type str'."),
    ],
)  # fmt: skip
def test_what_is_no_data_is_told_in_one_line(content: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        as_parts(content)
    assert str(caught.value) == message


def test_ragged_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"^data: must be an array of numbers \[N, \.\.\.\] \(.*inhomogeneous.*\)\.$"):
        as_parts([[1.0, 2.0], [3.0]])


def test_what_may_be_trained_on_lies_beside_the_three_and_changes_none_of_them() -> None:
    whole, extra = (
        labelled(100, 50, 20),
        Samples(inputs={"x": np.full((5, 2), 0.5, np.float32) + np.arange(5)[:, None]}, labels=np.zeros(5, int)),
    )
    plain, beside = make_splits({"all": whole}), make_splits({"all": whole, "train": extra})
    assert beside.train is extra
    assert plain.train is None
    assert beside.digest == plain.digest
    assert members(beside) == members(plain)
    assert beside.train_digest
    assert beside.train_digest != make_splits({"all": whole, "train": extra.take([0, 1])}).train_digest


def test_training_data_that_overlap_certify_are_refused() -> None:
    whole = labelled(100, 50)
    certify = make_splits({"all": whole}).certify
    mixed = np.concatenate([np.full((1, 2), 0.5, np.float32), certify.inputs["x"][:1]])
    told = r"must not share samples between splits: 1 samples of certify are in train too \(the first at train\[1\]\)"
    with pytest.raises(DataError, match=told):
        make_splits({"all": whole, "train": Samples(inputs={"x": mixed}, labels=np.array([0, 0]))})


def test_time_for_training_needs_something_to_train_on() -> None:
    from hasten.core.errors import JobError
    from hasten.core.job import Job

    with pytest.raises(JobError, match=r"^train\.budget: needs data to train on. Name them in data\.train\.$"):
        Job.make({"model": {"source": "net.py:build"}, "data": {"source": "data.npz"}, "train": {"budget": "1h"}})
    job = Job.make({"model": {"source": "net.py:build"}, "data": {"source": "data.npz", "train": "more.npz"}, "train": {"budget": "1h"}})
    assert job.train.budget == 3600
