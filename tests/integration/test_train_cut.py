"""What pruning stands on: what is planned is what is cut, a block that is left out is its shortcut, and a table prices what it measured."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.seams import Target
from hasten.core.widths import Curves, Site, WidthTable
from hasten.measure.widths import measure_widths, widths_to
from hasten.train.cut import Cut, Goal, find_groups, find_sites
from hasten.train.depth import blocks, remove
from hasten.train.lift import lift

torch = pytest.importorskip("torch")
pruning = pytest.importorskip("torch_pruning")
nn = torch.nn


class Residual(nn.Module):  # type: ignore[misc,name-defined]
    """One block that can be left out, and one that cannot: it halves the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 32, 3, padding=1)
        self.inside = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.outside = nn.Conv2d(48, 32, 3, padding=1)
        self.deep = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 64, 1))
        self.down = nn.Conv2d(32, 64, 1, stride=2)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(64 * 16, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.outside(self.inside(x)))
        x = self.pool(self.deep(x)) + self.down(x)
        return self.head(torch.relu(x).flatten(1))


X = torch.randn(3, 4, 8, 8)


def lifted() -> Any:
    torch.manual_seed(0)
    program = torch.export.export(Residual().eval(), (X,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    return lift(program)


def groups_of(module: Any) -> Any:
    return find_groups(module, (X,), pruning.importance.GroupMagnitudeImportance(p=2), [module.head], {})


@pytest.mark.parametrize(("parameters", "seconds"), [(0.3, 0.0), (0.7, 0.0), (0.0, 0.3), (0.3, 0.6)])
def test_what_is_planned_is_what_is_cut(parameters: float, seconds: float) -> None:
    module = lifted()
    cut = Cut(find_sites(module, (X,)), groups_of(module), None)
    full = cut.price()
    gone = cut.plan(Goal(parameters=parameters, seconds=seconds, round_to=4), full)
    cut.make()
    assert find_sites(module, (X,)) == cut.sites
    after = Cut(find_sites(module, (X,)), groups_of(module), None).price().gone(full)
    assert after.parameters == pytest.approx(gone.parameters, abs=1e-9)
    assert after.seconds == pytest.approx(gone.seconds, abs=1e-9)
    assert gone.parameters >= parameters
    assert gone.seconds >= seconds
    assert min(gone.parameters - parameters, gone.seconds - seconds) < 0.12
    assert module(X).shape == (3, 3)
    assert torch.isfinite(module(X)).all()


def test_the_price_counts_the_parameters_of_what_can_be_cut() -> None:
    module = lifted()
    sites, groups = find_sites(module, (X,)), groups_of(module)
    counted = sum(p.numel() for p in module.parameters()) - module.head.bias.numel()  # belongs to no group
    assert Cut(sites, groups, None).price().parameters == counted


def test_the_least_scores_go_first() -> None:
    module = lifted()
    with torch.no_grad():
        for layer in (module.inside_0, module.outside):
            layer.weight.mul_(1.0)
        module.inside_0.weight[5:13].zero_()
        module.inside_1.weight[5:13].zero_()
        module.outside.weight[:, 5:13].zero_()
    before = module(X)
    groups = groups_of(module)
    inside = next(g for g in groups if "inside_0" in g.outputs)
    inside.gone = 8
    Cut(find_sites(module, (X,)), groups, None).make()
    assert module.inside_0.out_channels == 40
    torch.testing.assert_close(module(X), before, rtol=1e-4, atol=1e-5)


def test_a_width_that_saves_no_time_is_passed_over() -> None:
    module = lifted()
    groups, sites = groups_of(module), find_sites(module, (X,))
    step = {width: (width + 15) // 16 * 16e-6 for width in range(4, 65, 4)}  # a kernel that computes 16 channels at a time

    def curve(site: Site) -> Curves:
        ins, outs = ((*tuple(w for w in step if w < most), most) for most in (site.num_in, site.num_out))
        times = [tuple(step.get(w, 16e-6) for w in widths) for widths in (ins, outs)]
        return Curves(widths_in=ins, seconds_in=times[0], widths_out=outs, seconds_out=times[1])

    table = WidthTable(curves={site.key: curve(site) for site in sites.values()})
    cut = Cut(sites, groups, table)
    cut.plan(Goal(parameters=0.0, seconds=0.3, round_to=4), cut.price())
    widths = {group.width for group in groups if group.gone}
    assert widths
    assert all(width % 16 == 0 for width in widths)


def test_a_block_that_is_left_out_is_its_shortcut() -> None:
    module = lifted()
    (only,) = blocks(module)
    whole, plain = lifted(), Residual()
    torch.manual_seed(0)
    plain = Residual().eval()
    remove(module, only)

    def without(x: Any) -> Any:
        x = torch.relu(torch.relu(plain.stem(x)))
        x = plain.pool(plain.deep(x)) + plain.down(x)
        return plain.head(torch.relu(x).flatten(1))

    torch.testing.assert_close(module(X), without(X))
    gone = {name for name, _ in whole.named_children()} - {name for name, _ in module.named_children()}
    assert gone == {"inside_0", "inside_1", "outside"}


def test_a_table_is_exact_where_it_was_measured_and_rounds_up_between() -> None:
    curve = Curves(widths_in=(8, 16), seconds_in=(3.0, 4.0), widths_out=(8, 16, 32), seconds_out=(1.0, 2.0, 4.0))
    assert curve.seconds(16, 8) == 1.0
    assert curve.seconds(8, 32) == 3.0
    assert curve.seconds(9, 17) == curve.seconds(16, 32) == 4.0


@pytest.mark.parametrize("most", [4, 16, 40, 128, 384, 1536, 4096])
def test_the_widths_that_are_measured_are_few_and_reach_the_widest(most: int) -> None:
    widths = widths_to(most)
    assert widths == sorted(set(widths))
    assert widths[-1] == most
    assert len(widths) < 45
    assert all(b - a <= max(8, most / 16) for a, b in itertools.pairwise(widths))


def test_a_fitted_table_finds_overhead_and_scale() -> None:
    site = Site(num_in=8, num_out=32, kernel=(3, 3), size=(8, 8))
    curve = Curves(widths_in=(8,), seconds_in=(4e-6,), widths_out=(8, 16, 32), seconds_out=(1e-6, 2e-6, 4e-6))
    table = WidthTable(curves={site.key: curve})
    narrow = Site(num_in=8, num_out=8, kernel=(3, 3), size=(8, 8))
    fitted = table.fitted([([site, site], 1e-5 + 3 * 8e-6), ([narrow], 1e-5 + 3 * 1e-6), ([site, narrow], 1e-5 + 3 * 5e-6)])
    assert fitted.overhead_seconds == pytest.approx(1e-5)
    assert fitted.scale == pytest.approx(3.0)
    assert WidthTable.from_json(fitted.to_json()) == fitted


def test_the_null_runtime_is_not_measured_but_onnxruntime_is_and_wider_takes_longer(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from hasten.core.registry import get
    from hasten.core.seams import Runtime

    sites = [
        Site(num_in=64, num_out=128, kernel=(3, 3), size=(28, 28)),
        Site(num_in=16, num_out=16, kernel=(3, 3), size=(8, 8), depthwise=True),
        Site(num_in=64, num_out=32, size=(16, 1), linear=True),
    ]
    table = measure_widths(get(Runtime, "onnxruntime")(), Target(threads=1), sites, where={})
    assert set(table.curves) == {site.key for site in sites}
    curve = table.curves[sites[0].key]
    assert curve.widths_out == tuple(widths_to(128))
    assert curve.seconds_out[-1] > 2 * curve.seconds_out[0]
    assert curve.seconds_in[-1] == pytest.approx(curve.seconds_out[-1], rel=3.0)
    assert all(np.array(curve.seconds_in) > 0)
