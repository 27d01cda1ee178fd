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
from hasten.train.importance import scales
from hasten.train.lift import read_module
from hasten.train.loop import Plan
from hasten.train.loss import relations
from hasten.train.student import Student

torch = pytest.importorskip("torch")


@pytest.fixture
def model() -> ReferenceModel:
    return reference_model("digits")


def training(model: ReferenceModel, folder: Path, **more: Any) -> Training:
    return Training(
        inputs=model.calibration, labels=None, original=model.module, output=0, classifier=True, checkpoint=folder / "c.pt", batch_size=8,
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


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_kept_answers_are_the_answers_and_are_asked_for_once(augment: Any, model: ReferenceModel, tmp_path: Path) -> None:
    student = Student.of(training(model, tmp_path, augment=augment), model.module, seed=0)
    asked = Asked(student.teacher.module)
    plain = Teacher(module=asked, batches=student.batches)
    keeping = Teacher(module=asked, batches=student.batches, folder=tmp_path / "answers" / "0")
    fresh = [plain(batch)[0] for batch in student.batches.epoch(1)]
    for _ in range(3):
        kept = [keeping(batch)[0] for batch in student.batches.epoch(1)]
        for a, b in zip(fresh, kept, strict=True):
            torch.testing.assert_close(a, b)
    all_samples = -(-len(student.batches.inputs[0]) // student.batches.size)
    assert asked.times == len(student.batches) + (all_samples if augment == "none" else len(student.batches))


def test_samples_as_they_are_are_asked_about_once_for_all_epochs_and_seeds(model: ReferenceModel, tmp_path: Path) -> None:
    students = [Student.of(training(model, tmp_path), model.module, seed=seed) for seed in (0, 1)]
    right = students[0].teacher.module
    asked = Asked(right)
    for student in students:
        student.teacher.module = asked
        for batch in (*student.batches.epoch(0), *student.batches.epoch(1)):
            torch.testing.assert_close(student.teacher(batch)[0], right(*batch.inputs))
    assert asked.times == -(-len(students[0].batches.inputs[0]) // students[0].batches.size)


@pytest.mark.parametrize(("augment", "file"), [("none", "plain/plain.npy"), ("flip", "0/0.npy")])
def test_an_answer_that_was_torn_is_asked_for_again(augment: Any, file: str, model: ReferenceModel, tmp_path: Path) -> None:
    student = Student.of(training(model, tmp_path, augment=augment), model.module, seed=0)
    first = next(student.batches.epoch(0))
    whole = student.teacher(first)[0]
    kept = np.load(tmp_path / "answers" / file, mmap_mode="r+")
    kept[:, 3:] = np.nan
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


def test_relations_do_not_change_by_turning_moving_or_scaling_and_do_by_anything_else() -> None:
    x = torch.randn(8, 5, requires_grad=True)
    turn = torch.linalg.qr(torch.randn(7, 7)).Q[:5]  # into more dimensions than there are
    assert relations(x, 3.0 * (x.detach() @ turn) + 2.0) < 1e-9
    other = relations(x, torch.randn(8, 5))
    assert other > 0.01
    torch.autograd.backward(other)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("share", [{"relations_share": 1.0}, {"relations_share": 1.0, "features_share": 1.0}])
def test_a_student_learns_how_samples_lie_to_one_another(share: dict[str, float], model: ReferenceModel, tmp_path: Path) -> None:
    student = Student.of(training(model, tmp_path), model.module, seed=0, **share)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in student.module.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    losses = student.learn(Plan(epochs=6, learning_rate=1e-2))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("kind", [*nets.PICTURES, "mlp"])
def test_a_built_network_fits_the_input_and_a_seed_decides_its_weights(kind: str) -> None:
    x = torch.randn(3, 2, 12, 10)
    one, two, other = (nets.build(nets.described(kind, width=8, depth=2, shape=(2, 12, 10)), (x,), 5, seed=seed) for seed in (1, 1, 2))
    assert one(x).shape == (3, 5)
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), other(x))
    assert one(torch.randn(7, 2, 12, 10)).shape == (7, 5)


def test_pictures_only() -> None:
    with pytest.raises(NotPossibleHere, match="one input of pictures"):
        nets.build(nets.described("resnet", width=8, depth=1, shape=(4,)), (torch.randn(3, 4),), 2, seed=0)


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


def test_pushed_scales_are_the_penalty_and_end_smaller(model: ReferenceModel, tmp_path: Path) -> None:
    sizes = []
    for sparsity in (0.0, 0.1):
        student = Student.of(training(model, tmp_path), model.module, seed=0)
        batch = next(student.batches.epoch(0))
        plain = student.loss(student.module, batch).item()
        student.sparsity = sparsity
        size = sum(scale.abs().sum().item() for scale in scales(student.module))
        assert student.loss(student.module, batch).item() == pytest.approx(plain + sparsity * size, rel=1e-5)
        student.learn(Plan(epochs=3, learning_rate=1e-2))
        sizes.append(sum(scale.abs().sum().item() for scale in scales(student.module)))
    assert sizes[1] < 0.9 * sizes[0]


def test_what_training_did_is_told_with_the_model(model: ReferenceModel, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    context = Context(folder=tmp_path / "out", calibration=model.calibration, training=training(model, tmp_path))
    context.folder.mkdir()
    pruned = get(Technique, "structured-pruning")(share=0.3, epochs=4, sparsify=1e-3).apply(model.module, context)
    pushed, cut, *whole, taught = pruned.notes
    assert pushed.startswith("trained for 1 epochs")
    assert cut.startswith("cut ")
    assert any("outputs or reshapes count on it" in line for line in whole)  # the last layer
    assert taught.startswith("trained for 3 epochs")
    again = Candidate.from_json(pruned.to_json(), pruned.path)
    assert again == pruned
    assert again.id == dataclasses.replace(pruned, notes=()).id


def test_without_scales_there_is_nothing_to_push(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    other = reference_model("attention")
    context = Context(folder=tmp_path, calibration=other.calibration, training=training(other, tmp_path))
    with pytest.raises(NotPossibleHere, match="option sparsify: must have scales to push"):
        get(Technique, "structured-pruning")(share=0.3, epochs=4, sparsify=1e-3).apply(other.module, context)
