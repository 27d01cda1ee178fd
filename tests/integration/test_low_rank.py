"""Two thin layers are the large one, less exactly the variance that was given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.registry import get
from hasten.core.seams import Technique, Training
from hasten.techniques.low_rank import two_layers
from hasten.testing import reference_model

torch = pytest.importorskip("torch")
nn = torch.nn


def layers() -> list[tuple[Any, Any]]:
    torch.manual_seed(0)
    picture, row = torch.randn(16, 6, 9, 9) + 1, torch.randn(200, 20) @ torch.randn(20, 20) + 1
    return [
        (nn.Conv2d(6, 10, 3, stride=2, padding=1), picture), (nn.Conv2d(6, 10, (1, 3), dilation=(1, 2), bias=False), picture),
        (nn.Linear(20, 12), row),
    ]  # fmt: skip


def rows(output: Any) -> Any:
    return (output.movedim(1, -1) if output.ndim == 4 else output).reshape(-1, output.shape[1]).double()


@pytest.mark.parametrize("case", range(3))
def test_what_is_lost_is_the_variance_in_the_directions_that_were_left_out(case: int) -> None:
    layer, x = layers()[case]
    with torch.no_grad():
        right = rows(layer(x))
        powers, directions = torch.linalg.eigh(torch.cov(right.T, correction=0))
        for rank in (len(powers), len(powers) // 2):
            thin = two_layers(layer, right.mean(0).float(), directions.flip(1)[:, :rank].float())
            lost = (rows(thin(x)) - right).square().sum(1).mean()
            left_out = powers.flip(0)[rank:].sum()
            assert lost.item() == pytest.approx(left_out.item(), rel=1e-3, abs=1e-8)


def test_a_trained_network_keeps_most_of_its_outputs_with_fewer_parameters(tmp_path: Path) -> None:
    model = reference_model("digits")
    training = Training(
        inputs=model.calibration, labels=None, original=model.module, output=0, classifier=True, checkpoint=tmp_path / "c.pt", batch_size=32
    )  # fmt: skip
    technique = get(Technique, "low-rank")(energy=0.8, min_weights=1, epochs=0)  # type: ignore[call-arg]
    after = technique.apply(model.module, replace(model.context(tmp_path), training=training))
    program = torch.export.load(after.path)
    count = [sum(value.numel() for value in torch.export.load(c.path).state_dict.values()) for c in (model.module, after)]
    assert count[1] < 0.9 * count[0]
    expected, got = model.outputs["logits"], program.module()(torch.from_numpy(model.inputs["image"])).detach().numpy()
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 3
