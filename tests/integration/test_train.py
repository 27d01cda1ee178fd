"""What training stands on: lifting changes nothing, a seed decides everything, and a kill loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.errors import DataError, NotPossibleHere
from hasten.train import fake
from hasten.train.batches import Batches
from hasten.train.fold import fold_norms
from hasten.train.lift import lift, lower
from hasten.train.loop import Plan, fit
from hasten.train.loss import Distillation

torch = pytest.importorskip("torch")
nn = torch.nn


class Twice(nn.Module):  # type: ignore[misc,name-defined]
    """One layer called twice, and its weight a third time in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.conv(torch.relu(self.conv(x))))
        y = nn.functional.conv2d(y, self.conv.weight, self.conv.bias, stride=1, padding=2, dilation=2)
        return self.head(y.flatten(1))


class Attention(nn.Module):  # type: ignore[misc,name-defined]
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, 16, 4, 4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def normalised() -> Any:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding="same"), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3),
    )  # fmt: skip


def exported(module: Any) -> Any:
    x = torch.randn(3, 4, 8, 8)
    return torch.export.export(module.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def lifted(module: Any) -> Any:
    return lift(exported(module))


def batches(count: int = 64, *, size: int = 16, augment: Any = "none") -> Batches:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    pictures = rng.normal(labels[:, None, None, None], 1.0, (count, 4, 8, 8)).astype(np.float32)
    return Batches(inputs=(pictures,), labels=labels, size=size, augment=augment)


def taught(module: Any, batch: Any) -> Any:
    return nn.functional.cross_entropy(module(*batch.inputs), batch.labels)


def weights(module: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.mark.parametrize("make", [Twice, Attention, normalised])
def test_a_lifted_module_computes_the_same_has_the_same_parameters_and_trains_all_of_them(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = make().eval()
    up, x = lifted(module), torch.randn(5, 4, 8, 8)
    torch.testing.assert_close(up(x), module(x), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in up.parameters()) == sum(p.numel() for p in module.parameters())
    up.train()(x).square().sum().backward()
    assert [name for name, p in up.named_parameters() if p.grad is None] == []
    lower(up, (torch.randn(4, 4, 8, 8),), tmp_path / "m.pt2", free_batch=True)
    again = torch.export.load(tmp_path / "m.pt2").module()
    torch.testing.assert_close(again(x), up.eval()(x), rtol=1e-5, atol=1e-5)


def test_layers_come_back_as_layers_and_normalisation_learns_in_training() -> None:
    up = lifted(normalised())
    kinds = [type(layer).__name__ for layer in up.children()]
    assert kinds == ["Conv2d", "BatchNorm2d", "Conv2d", "Dropout", "Linear"]
    norm = next(layer for layer in up.children() if isinstance(layer, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    up.train()(torch.randn(8, 4, 8, 8) + 3)
    assert not torch.equal(before, norm.running_mean)


def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_bits() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        module = lifted(normalised())
        losses = fit(module, batches(augment="flip-crop"), taught, Plan(epochs=6, learning_rate=1e-2, seed=3))
        assert losses[-1] < 0.8 * losses[0]
        results.append(weights(module))
    assert_same(*results)


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    plan = Plan(epochs=5, learning_rate=1e-2, checkpoint_seconds=0.0, ema=0.9, seed=1)

    def start() -> Any:
        torch.manual_seed(0)
        return lifted(normalised())

    whole, checkpoint = start(), tmp_path / "c.pt"
    fit(whole, batches(), taught, plan)
    for fatal in (0.4, 0.75):

        def die(done: float, loss: float, fatal: float = fatal) -> None:
            if done >= fatal:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(start(), batches(), taught, plan, checkpoint=checkpoint, tell=die)
        assert checkpoint.exists()
    resumed, seen = start(), []
    fit(resumed, batches(), taught, plan, checkpoint=checkpoint, tell=lambda done, loss: seen.append(done))
    assert len(seen) < plan.epochs * len(batches()) / 2, "it began again"
    assert_same(weights(whole), weights(resumed))
    assert not checkpoint.exists()


def test_a_torn_checkpoint_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(b"PK torn")
    module = lifted(normalised())
    assert len(fit(module, batches(), taught, Plan(epochs=1), checkpoint=tmp_path / "c.pt")) == 1


def test_a_loss_that_is_not_finite_is_told() -> None:
    with pytest.raises(NotPossibleHere, match="step 1 of 4: must keep a finite loss, but got nan"):
        fit(lifted(normalised()), batches(), lambda module, batch: taught(module, batch) * torch.nan, Plan(epochs=1))


def test_accumulated_batches_are_one_large_batch() -> None:
    results = []
    for size, accumulate in ((16, 1), (8, 2)):
        torch.manual_seed(0)
        module = lifted(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)))
        fit(module, batches(size=size), taught, Plan(epochs=1, accumulate=accumulate, learning_rate=1e-3))
        results.append(weights(module))
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], atol=2e-4, err_msg=name)


def test_every_sample_is_seen_once_an_epoch_and_epochs_differ() -> None:
    numbers = np.arange(60, dtype=np.float32).reshape(-1, 1)
    data = Batches(inputs=(numbers,), labels=None, size=10, seed=0)
    epochs = [[int(v) for batch in data.epoch(e) for v in batch.inputs[0].flatten()] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(60))
    assert epochs[0] != epochs[1]
    assert [int(v) for batch in data.epoch(0, start=2) for v in batch.inputs[0].flatten()] == epochs[0][20:]


def test_augmentation_wants_pictures(tmp_path: Path) -> None:
    from hasten.core.candidate import Candidate, Floor
    from hasten.core.seams import Training
    from hasten.core.signature import Signature

    np.save(tmp_path / "x.npy", np.zeros((4, 3), np.float32))
    nobody = Candidate(floor=Floor.MODULE, path=tmp_path, signature=Signature(inputs=(), outputs=()), lineage=())
    training = Training(
        inputs={"x": tmp_path / "x.npy"}, labels=None, original=nobody, output=0, classifier=True, checkpoint=tmp_path / "c", augment="flip"
    )  # fmt: skip
    with pytest.raises(DataError, match=r"train\.augment: must be none unless"):
        Batches.of(training, ["x"], 0)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it() -> None:
    scores = torch.randn(6, 5)
    assert float(Distillation(alpha=1.0)(scores, scores, None)) == pytest.approx(0.0, abs=1e-6)
    assert float(Distillation(classifier=False)(scores, scores, None)) == 0.0
    labels = torch.arange(5).repeat(2)[:6]
    expected = nn.functional.cross_entropy(scores, labels)
    torch.testing.assert_close(Distillation(alpha=0.25)(scores, scores, labels), 0.75 * expected)


def test_softened_scores_are_compared_at_the_temperature() -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    p, q = (torch.softmax(s / 2, 1) for s in (b, a))
    wanted = 4 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(Distillation(alpha=1.0, temperature=2.0)(a, b, None), wanted)


def test_folding_norms_changes_nothing_and_leaves_none() -> None:
    torch.manual_seed(0)
    up, x = lifted(normalised()), torch.randn(4, 4, 8, 8)
    norm = next(layer for layer in up.children() if isinstance(layer, nn.BatchNorm2d))
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    before = up(x)
    assert fold_norms(up) == 1
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in up.modules())
    torch.testing.assert_close(up(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_channel", [True, False])
def test_fake_rounding_watches_then_rounds_then_leaves_what_it_taught(per_channel: bool) -> None:
    torch.manual_seed(0)
    up, x = lifted(normalised()), torch.randn(16, 4, 8, 8)
    fold_norms(up)
    before = up(x)
    fake.insert(up, per_channel=per_channel)
    torch.testing.assert_close(up(x), before)
    fake.start(up)
    rounded = up(x)
    error = float((rounded - before).detach().square().mean() / before.detach().square().mean())
    assert 1e-8 < error < 1e-2
    rounded.sum().backward()
    assert all(p.grad is not None for p in up.parameters())
    fake.remove(up)
    torch.testing.assert_close(up(x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(-0.7, 1.9), (0.0, 2.0)])
def test_rounding_in_one_pass_has_the_gradients_that_autograd_finds(low: float, high: float) -> None:
    def step_by_step(x: Any, low: Any, high: Any) -> Any:
        step = (high - low) / 255
        zero = fake._round(-low / step)
        return fake._round(torch.clamp(x / step, -zero, 255 - zero)) * step

    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(16, 8, 6, 6, generator=generator) for _ in range(2))
    found = []
    for function in (step_by_step, fake._between().apply):
        leaves = [torch.tensor(v, requires_grad=True) for v in (x.tolist(), low, high)]
        y = function(*leaves)
        found.append((y.detach(), *torch.autograd.grad(y, leaves, gradient)))
    for one, other, tolerance in zip(*found, (1e-6, 1e-6, 0.1, 0.1), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=tolerance)


def test_a_rounded_weight_has_256_levels_a_channel() -> None:
    torch.manual_seed(0)
    up = lifted(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU()))
    fake.insert(up, per_channel=True)
    fake.start(up)
    layer = next(m for m in up.children() if hasattr(m, "per_channel"))
    impulse = torch.zeros(1, 4, 3, 3)
    impulse[0, 1, 2, 0] = 1.0
    step = layer.layer.weight.detach().abs().amax((1, 2, 3)) / 127
    seen = (layer(impulse)[0, :, 0, 0] - layer.layer.bias) / step
    torch.testing.assert_close(seen, seen.round(), atol=1e-3, rtol=0)
