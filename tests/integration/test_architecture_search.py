"""What architecture search stands on: what is priced is what is built, no network is dearer than was asked, and a seed decides all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Step
from hasten.core.errors import JobError, NotPossibleHere
from hasten.core.registry import get
from hasten.core.seams import Context, Profile, Runtime, Target, Technique, Training
from hasten.core.signature import Signature, TensorSpec
from hasten.core.widths import Curves, Site, WidthTable
from hasten.search.observer import Observer
from hasten.search.study import Study
from hasten.testing._models import ReferenceModel, reference_model
from hasten.train import nets
from hasten.train.batches import Batches
from hasten.train.cut import find_sites
from hasten.train.halving import Ladder, Stretch
from hasten.train.lift import read_module
from hasten.train.space import Space

torch = pytest.importorskip("torch")
optuna = pytest.importorskip("optuna")
SPACES = [Space(shape=(2, 28, 20), num_out=5), Space(shape=(3, 12, 12), num_out=5, widest=32, squeeze=True), Space(shape=(7,), num_out=5)]
FEW = {"trials": 6, "samples": 32, "epochs": 1, "widest": 32}


@pytest.fixture
def model() -> ReferenceModel:
    return reference_model("digits")


def proposals(space: Space, count: int = 12) -> list[Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for answers in space.first():
        study.enqueue_trial(answers)
    return [space.propose(study.ask()) for _ in range(count)]


def table(sites: Any, seconds: float = 1e-6) -> WidthTable:
    """A kernel that computes 16 channels at a time, wherever it stands."""
    steps = tuple(range(16, 257, 16))
    curve = Curves(
        widths_in=steps,
        seconds_in=tuple(seconds * w / 16 for w in steps),
        widths_out=steps,
        seconds_out=tuple(seconds * w / 16 for w in steps),
    )
    return WidthTable(curves={site.key: curve for site in sites})


def context(model: ReferenceModel, folder: Path, prices: WidthTable | None = None) -> Context:
    (folder / "out").mkdir(parents=True)
    training = Training(
        inputs=model.calibration, labels=None, original=model.module, output=0, classifier=True, checkpoint=folder / "c.pt", batch_size=8,
        answers=folder / "answers",
    )  # fmt: skip
    if prices is not None:
        (folder / "widths.json").write_text(json.dumps(prices.to_json()))
        training = dataclasses.replace(training, widths=folder / "widths.json")
    return Context(folder=folder / "out", calibration=model.calibration, training=training)


def state(candidate: Candidate) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in torch.export.load(candidate.path).state_dict.items()}


@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(space.shape))
def test_what_is_priced_is_what_is_built(space: Space) -> None:
    x = torch.randn(3, *space.shape)
    for architecture in proposals(space):
        network = nets.build(architecture, (x,), space.num_out, seed=0)
        assert network(x).shape == (3, space.num_out)
        layers = [
            site for site in space.sites(architecture) if site.kernel != (1, 1) or not site.depthwise
        ]  # what a squeeze reads is no layer
        assert sorted(map(str, find_sites(network, (x,)).values())) == sorted(map(str, layers))


@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(space.shape))
def test_every_layer_that_may_be_proposed_is_in_the_table_as_wide_as_it_may_be(space: Space) -> None:
    known: dict[str, list[Site]] = {}
    for site in space.places():
        known.setdefault(site.key, []).append(site)
    for architecture in proposals(space, 60):
        for site in space.sites(architecture):
            assert max(one.num_in for one in known[site.key]) >= site.num_in
            assert max(one.num_out for one in known[site.key]) >= site.num_out


@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(space.shape))
def test_a_network_that_is_too_dear_is_narrowed_until_it_is_not(space: Space) -> None:
    prices = table(space.places())
    for architecture in proposals(space):
        full = prices.total(space.sites(architecture))
        for share in (1.0, 0.7):
            fitted = space.fitted(architecture, prices, share * full)
            assert fitted is None or prices.total(space.sites(fitted)) <= share * full
        assert space.fitted(architecture, prices, full) == architecture
        assert space.fitted(architecture, prices, 1e-9) is None


def test_nothing_is_learnt_twice_on_the_way_up_and_every_rung_is_three_times_as_long() -> None:
    numbers = np.arange(60, dtype=np.float32).reshape(-1, 1)
    data = Batches(inputs=(numbers,), labels=None, size=10, seed=0)
    whole = [batch.inputs[0].flatten().tolist() for epoch in range(3) for batch in data.epoch(epoch)]
    stretches = [Stretch(batches=data, first=first, steps=steps) for first, steps in ((0, 4), (4, 8), (12, 6))]
    assert [batch.inputs[0].flatten().tolist() for one in stretches for batch in one.epoch(0)] == whole
    assert [batch.inputs[0].flatten().tolist() for batch in stretches[1].epoch(0, start=3)] == whole[7:12]
    ladder = Ladder(trials=27, samples=100)
    assert ladder.survivors() == [27, 9, 3]
    assert [ladder.seen(rung) for rung in range(3)] == [100, 300, 900]
    assert ladder.all_samples == 27 * 100 + 9 * 200 + 3 * 600


def test_no_network_is_dearer_than_was_asked_and_the_best_of_the_last_rung_is_the_student(model: ReferenceModel, tmp_path: Path) -> None:
    space, original = Space(shape=(1, 8, 8), num_out=10, widest=32), read_module(model.module.path)
    x = torch.from_numpy(next(iter(model.inputs.values())))
    prices = table([*space.places(), *find_sites(original, (x,)).values()])
    student = get(Technique, "architecture-search")(speed=1.5, **FEW).apply(model.module, context(model, tmp_path, prices))
    (sentence, *_), tried = student.notes, student.tried
    assert len(tried) == FEW["trials"]
    assert max(one["seconds"] for one in tried) <= prices.total(find_sites(original, (x,)).values()) / 1.5
    rungs = max(len(one["losses"]) for one in tried)
    assert rungs == 2
    best = min((one for one in tried if len(one["losses"]) == rungs), key=lambda one: one["losses"][-1])
    assert best["network"] in sentence
    built = find_sites(read_module(student.path), (x,))
    assert prices.total(built.values()) == pytest.approx(best["seconds"])


def test_every_rung_trains_where_its_samples_do_not_fill_a_batch(model: ReferenceModel, tmp_path: Path) -> None:
    technique = get(Technique, "architecture-search")(speed=1.5, trials=6, samples=1, epochs=0, widest=32)
    tried = technique.apply(model.module, context(model, tmp_path)).tried
    climbed = [one["losses"] for one in tried if len(one["losses"]) == 2]
    assert len(climbed) == 2
    assert all(first != second for first, second in climbed)


def test_a_price_that_no_network_has_is_refused_in_one_line(model: ReferenceModel, tmp_path: Path) -> None:
    technique = get(Technique, "architecture-search")(speed=1e6, **FEW)
    with pytest.raises(NotPossibleHere, match=r"^technique architecture-search: must be able to propose a network at this price, .*Lower"):
        technique.apply(model.module, context(model, tmp_path))


def test_what_was_tried_is_in_the_evidence_of_the_decision_that_it_belongs_to(model: ReferenceModel) -> None:
    rows = [{"network": "a"}, {"network": "b"}]
    made = model.module.then(Step(name="search"), model.module.path, notes=["two networks."], tried=rows)
    assert Candidate.from_json(made.to_json(), made.path).tried == tuple(rows)
    assert made.then(Step(name="more"), made.path).tried == ()
    study = Study(60.0, Observer())
    study.decide("first", "why")
    study.decide("second", "why")
    study.learn(*made.notes, made.tried)
    first, second = (decision.to_json() for decision in study.decisions)
    assert "tried" not in first
    assert (second["learnt"], second["tried"]) == ("two networks.", rows)


def test_the_same_seed_gives_the_same_bits_and_the_graph_computes_the_same(model: ReferenceModel, tmp_path: Path) -> None:
    technique = get(Technique, "architecture-search")(speed=2.0, **FEW)
    one, two = (technique.apply(model.module, context(model, tmp_path / name)) for name in "ab")
    assert (one.notes, one.tried) == (two.notes, two.tried)
    first, second = state(one), state(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    graph = tmp_path / "graph"
    graph.mkdir()
    lowered = get(Technique, "export-onnx")().apply(one, dataclasses.replace(context(model, tmp_path / "c"), folder=graph))
    runtime, target = get(Runtime, "onnxruntime")(), Target(threads=1)
    (tmp_path / "program").mkdir()
    runtime.compile(lowered, target, tmp_path / "program")
    answers = runtime.load(tmp_path / "program", target).run(model.inputs)["logits"]
    with torch.no_grad():
        wanted = read_module(one.path)(torch.from_numpy(next(iter(model.inputs.values())))).numpy()
    np.testing.assert_allclose(answers, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"speed": 0.5}, "architecture-search, option speed: must be at least 1, but got 0.5"),
        ({"trials": 0}, "architecture-search, option trials: must be at least 1, but got 0"),
        ({"widest": 4}, "architecture-search, option widest: must be at least 8, but got 4"),
        ({"sampler": "grid"}, "architecture-search, option sampler: must be one of nsga2, tpe, random, but got 'grid'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as caught:
        get(Technique, "architecture-search")(**wrong)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ([(None, 3, 8, 8), (None, 4)], "one input and one output"),
        ([(None, None, 8, 8)], "of one size only"),
        ([(None, 5, 9)], "pictures or rows"),
        ([(None, 3, 8, 8)], ""),
        ([(None, 5)], ""),
    ],
)
def test_it_fits_one_picture_or_row_in_and_one_vector_out(shapes: list[Any], word: str, model: ReferenceModel) -> None:
    inputs = tuple(TensorSpec(name=f"x{n}", dtype="float32", shape=shape) for n, shape in enumerate(shapes))
    signature = Signature(inputs=inputs, outputs=(TensorSpec(name="y", dtype="float32", shape=(None, 3)),))
    candidate = dataclasses.replace(model.module, signature=signature)
    profile: Profile = dataclasses.replace(model.profile(), num_train=100, epoch_seconds=1.0)
    technique = get(Technique, "architecture-search")()
    reason = technique.fits(candidate, profile)
    assert word in str(reason) if word else reason is None


def test_it_starts_from_the_original_and_wants_something_to_train_on(model: ReferenceModel) -> None:
    profile, technique = dataclasses.replace(model.profile(), num_train=100, epoch_seconds=1.0), get(Technique, "architecture-search")()
    assert technique.fits(model.module, profile) is None
    assert "--train-budget" in str(technique.fits(model.module, dataclasses.replace(profile, num_train=0)))
    worked_on = dataclasses.replace(model.module, lineage=(*model.module.lineage, Step(name="pruned")))
    assert "starts from the original" in str(technique.fits(worked_on, profile))
