"""What distillation stands on: answers that are kept are the answers, stages outlive a kill, and students are what was asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Floor
from hasten.core.errors import NotPossibleHere
from hasten.core.registry import get
from hasten.core.seams import Context, Technique, Training
from hasten.testing._models import ReferenceModel, reference_model
from hasten.train import features, nets
from hasten.train.answers import Teacher
from hasten.train.lift import read_module
from hasten.train.loop import Plan
from hasten.train.student import Student

torch = pytest.importorskip("torch")


@pytest.fixture
def model() -> ReferenceModel:
    return reference_model("digits")


def training(model: ReferenceModel, folder: Path, **more: Any) -> Training:
    return Training(
        inputs=model.calibration, labels=None, teacher=model.module, output=0, classifier=True, checkpoint=folder / "c.pt", batch_size=8,
        answers=folder / "answers", **more,
    )  # fmt: skip


class Asked(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Counts how often it is asked."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module, self.times = module, 0

    def forward(self, *inputs: Any) -> Any:
        self.times += 1
        return self.module(*inputs)


def test_kept_answers_are_the_answers_and_are_asked_for_once(model: ReferenceModel, tmp_path: Path) -> None:
    student = Student.of(training(model, tmp_path), model.module, seed=0)
    asked = Asked(student.teacher.module)
    plain = Teacher(module=asked, batches=student.batches)
    keeping = Teacher(module=asked, batches=student.batches, folder=tmp_path / "answers" / "0")
    fresh = [plain(batch)[0] for batch in student.batches.epoch(1)]
    for _ in range(3):
        kept = [keeping(batch)[0] for batch in student.batches.epoch(1)]
        for a, b in zip(fresh, kept, strict=True):
            assert torch.equal(a, b)
    assert asked.times == 2 * len(student.batches)


def test_an_answer_that_was_torn_is_asked_for_again(model: ReferenceModel, tmp_path: Path) -> None:
    student = Student.of(training(model, tmp_path), model.module, seed=0)
    first = next(student.batches.epoch(0))
    whole = student.teacher(first)[0]
    kept = np.load(tmp_path / "answers" / "0" / "0.npy", mmap_mode="r+")
    kept[0, 3:] = np.nan
    assert torch.equal(student.teacher(first)[0], whole)
    assert not np.isnan(kept[0]).any()


def test_students_end_in_the_same_bits_whether_answers_were_kept_or_not(model: ReferenceModel, tmp_path: Path) -> None:
    results = []
    for answers in (None, tmp_path / "a", tmp_path / "a"):
        student = Student.of(dataclasses.replace(training(model, tmp_path), answers=answers), model.module, seed=0, features_share=0.5)
        student.learn(Plan(epochs=2, learning_rate=1e-2, checkpoint_seconds=0.0))
        results.append({k: v.numpy().copy() for k, v in student.module.state_dict().items()})
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_a_stage_that_ended_is_not_trained_again(model: ReferenceModel, tmp_path: Path) -> None:
    plan = Plan(epochs=1, learning_rate=1e-2)
    first = Student.of(training(model, tmp_path), model.module, seed=0)
    first.learn_stage(plan, 1)
    again = Student.of(training(model, tmp_path), model.module, seed=0)
    again.learn_stage(dataclasses.replace(plan, epochs=1000), 1)
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name])
    again.export(tmp_path)
    assert not list(tmp_path.glob("c.stage*"))


def test_features_are_what_enters_the_last_layer_and_leave_no_trace(model: ReferenceModel) -> None:
    module = read_module(model.module.path)
    x = next(iter(model.inputs.values()))[:4]
    before = module(torch.from_numpy(x))
    tapped = features.tapped(module)
    outputs, seen = tapped(torch.from_numpy(x))
    last = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)][-1]
    torch.testing.assert_close(last(seen), outputs)
    tapped.tap.remove()
    torch.testing.assert_close(module(torch.from_numpy(x)), before)


@pytest.mark.parametrize("kind", nets.KINDS)
def test_a_built_network_fits_the_input_and_a_seed_decides_its_weights(kind: str) -> None:
    x = torch.randn(3, 2, 12, 10)
    one, two, other = (nets.build(nets.described(kind, width=8, depth=2), (x,), 5, seed=seed) for seed in (1, 1, 2))
    assert one(x).shape == (3, 5)
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), other(x))
    assert one(torch.randn(7, 2, 12, 10)).shape == (7, 5)


def test_pictures_only() -> None:
    with pytest.raises(NotPossibleHere, match="one input of pictures"):
        nets.build(nets.described("resnet", width=8, depth=1), (torch.randn(3, 4),), 2, seed=0)


@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "mlp", "same", "own"])
def test_every_kind_of_student_learns(kind: str, model: ReferenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = np.load(next(iter(model.calibration.values())), mmap_mode="r").shape[1:]
    size = int(np.prod(shape))
    (tmp_path / "mine.py").write_text(
        f"from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear({size}, 12), nn.ReLU(), nn.Linear(12, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    technique = get(Technique, "distillation")(student=kind, width=8, epochs=2, source=("mine.py:net",) if kind == "own" else ())
    (tmp_path / "out").mkdir()
    context = Context(folder=tmp_path / "out", calibration=model.calibration, training=training(model, tmp_path))
    after: Candidate = technique.apply(model.module, context)
    assert after.floor is Floor.MODULE
    x = torch.from_numpy(next(iter(model.inputs.values())))
    answers = read_module(after.path)(x)
    assert answers.shape == (len(x), 10)
    assert torch.isfinite(answers).all()
