"""Zeros come as planned, where they were asked for, and a killed training goes on to the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.registry import get
from hasten.core.seams import Technique
from hasten.techniques.magnitude_sparsity import make_sparse, rising
from hasten.testing import reference_model
from hasten.train.batches import Batches
from hasten.train.loop import Plan, fit

torch = pytest.importorskip("torch")
nn = torch.nn


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 8)
    )  # fmt: skip


def test_the_share_rises_as_a_cubic_and_stays() -> None:
    shares = [rising(done, 0.8) for done in np.linspace(0, 1, 101)]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(0.8)
    assert shares == sorted(shares)
    assert rising(0.3, 0.8) == pytest.approx(0.8 * (1 - 0.5**3))


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_as_many_are_zero_as_was_asked_and_depthwise_weights_stay(share: float) -> None:
    net = network()
    make_sparse(net, share, "unstructured")
    dense = torch.cat([net[0].weight.flatten(), net[5].weight.flatten()])
    assert (dense == 0).float().mean().item() == pytest.approx(share, abs=0.001)
    assert (net[2].weight != 0).all()
    assert (net[0].weight != 0).any(), "layers compete, but none loses everything"
    before = dense.clone()
    make_sparse(net, share, "unstructured")
    assert torch.equal(before, torch.cat([net[0].weight.flatten(), net[5].weight.flatten()])), "once more changes nothing"


def test_of_a_layer_the_smallest_go() -> None:
    net = network()
    old = net[5].weight.detach().abs().clone()
    make_sparse(net, 0.7, "unstructured")
    gone = net[5].weight == 0
    assert old[gone].max() <= old[~gone].min()


def test_blocks_become_zero_together_and_groups_keep_as_many_as_they_may() -> None:
    net = network()
    make_sparse(net, 0.75, "blocks")
    for layer in (net[0], net[5]):
        zero = (layer.weight == 0).unflatten(0, (-1, 4))
        assert torch.equal(zero.all(1), zero.any(1))
    net = network()
    make_sparse(net, 0.5, "groups")
    assert ((net[5].weight != 0).unflatten(1, (-1, 4)).sum(-1) == 2).all()
    assert ((net[0].weight != 0).movedim(1, -1).unflatten(-1, (-1, 4)).sum(-1) == 2).all()


def test_a_killed_training_goes_on_to_the_same_zeros(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = Batches(inputs=(rng.standard_normal((64, 4, 8, 8), np.float32),), labels=rng.integers(0, 8, 64), size=16)
    plan = Plan(epochs=3, checkpoint_seconds=0.0)

    def loss(module: Any, batch: Any) -> Any:
        return nn.functional.cross_entropy(module(*batch.inputs), batch.labels)

    def trained(*, killed_at: float = 2.0) -> Any:
        net = network()

        def after(done: float, value: float) -> None:
            make_sparse(net, rising(done, 0.8), "unstructured")
            if done > killed_at:
                raise KeyboardInterrupt

        fit(net, data, loss, plan, checkpoint=tmp_path / "checkpoint.pt", tell=after)
        return net

    whole = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(killed_at=0.6)
    assert (tmp_path / "checkpoint.pt").exists()
    for a, b in zip(whole.parameters(), trained().parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_is_for_size_alone_and_says_why() -> None:
    technique, model = get(Technique, "magnitude-sparsity")(), reference_model("digits")
    assert "nothing is won for latency" in str(technique.fits(None, model.profile("latency")))
    assert "data.train" in str(technique.fits(None, model.profile("size")))
