"""Which channels go: groups that hang together, what each channel is worth, and what its absence saves.

Torch-Pruning (Fang et al. 2023, arXiv:2301.12900) finds what must be cut together and scores it; which cut comes next is decided here, so
that seconds as measured on this machine can decide: of all cuts to a lesser width, the one that saves most for what it loses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.need import need
from ..core.widths import Site, WidthTable

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_KEPT = 0.1  # of a group's channels, at the least


@dataclass(frozen=True, kw_only=True)
class Goal:
    """parameters, seconds: the shares that are to be gone, 0..1, of the time as the table (without one: the multiply-adds) prices it;
    round_to: widths are multiples of it."""

    parameters: float
    seconds: float = 0.0
    round_to: int = 8


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a model takes: parameters, and seconds (or multiply-adds, where nothing was measured)."""

    parameters: float
    seconds: float

    def gone(self, full: Price) -> Price:
        """The shares that are gone, of what `full` took."""
        return Price(parameters=1 - self.parameters / full.parameters, seconds=1 - self.seconds / full.seconds)


@dataclass(kw_only=True)
class Group:
    """Channels, or heads, that can only go together.

    scores: what each is worth, [channels]; remove: cuts those with the given places; inputs, outputs: layer -> how many of its inputs
    or outputs are one channel; vectors: other parameters of one channel (of normalisations); unit: numbers side by side that are one of
    them (the width of a head); gone: how many are to go.
    """

    scores: torch.Tensor
    remove: Callable[[list[int]], None]
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    vectors: int = 0
    unit: int = 1
    gone: int = 0

    def __post_init__(self) -> None:
        ascending = self.scores.double().sort().values.cumsum(0)
        self._lost: list[float] = [0.0, *ascending.tolist()]  # by how many are gone

    @property
    def width(self) -> int:
        return len(self.scores) - self.gone

    def lost(self, width: int) -> float:
        """The worth of what goes from now on down to `width`."""
        return self._lost[len(self.scores) - width] - self._lost[self.gone]


class Cut:
    """A cut that is being planned: what each layer and group has now."""

    def __init__(self, sites: Mapping[str, Site], groups: Sequence[Group], table: WidthTable | None) -> None:
        self.sites, self.groups, self.table = dict(sites), groups, table

    def price(self) -> Price:
        """Of the whole model as planned."""
        own = self._price(self.sites)
        return replace(own, parameters=own.parameters + sum(group.vectors * group.width for group in self.groups))

    def plan(self, goal: Goal, full: Price) -> Price:
        """Give groups lesser widths until `goal` is reached, in shares of `full`, or nothing is left. Returns the shares that are gone."""
        while True:
            gone = self.price().gone(full)
            missing = Price(parameters=max(0.0, goal.parameters - gone.parameters), seconds=max(0.0, goal.seconds - gone.seconds))
            if missing.parameters <= 0 and missing.seconds <= 0:
                break
            best = max(self._moves(goal, full, missing), key=lambda move: move[0], default=None)
            if best is None or best[0] <= 0:
                break
            _, group, width = best
            self.sites |= self._resized(group, width)
            group.gone = len(group.scores) - width
        return gone

    def make(self) -> None:
        """Cut the channels with the least scores, as planned."""
        for group in self.groups:
            if group.gone:
                group.remove(group.scores.argsort(stable=True)[: group.gone].sort().values.tolist())

    def told(self, goal: Goal, full: Price) -> list[str]:
        """What is planned, for people: what goes, and what stays as wide as it is and why."""
        gone, unit = self.price().gone(full), "time, as measured by width" if self.table else "operations"
        cut = sum(group.gone > 0 for group in self.groups)
        lines = [f"cut {gone.parameters:.0%} of the parameters and {gone.seconds:.0%} of the {unit}: "
                 f"{cut} of {len(self.groups)} groups of channels are narrower"]  # fmt: skip
        stays: dict[str, list[str]] = {}
        for group in self.groups:
            if not group.gone:
                stays.setdefault(self._why_whole(group, goal), []).extend(group.outputs)
        free = {name for group in self.groups for name in group.outputs}
        if counted_on := [name for name in self.sites if name not in free]:
            stays["outputs or reshapes count on it"] = counted_on
        return [*lines, *(f"as wide as before: {_some(names)} ({why})" for why, names in stays.items())]

    def _why_whole(self, group: Group, goal: Goal) -> str:
        narrower = _narrower(group, goal)
        if not narrower:
            return f"no multiple of {goal.round_to} is less"
        before = self._price(self._touched(group)).seconds
        if min(self._price(self._resized(group, width)).seconds for width in narrower) >= before:
            return "no narrower width is faster"
        return "other layers lose less for what they save"

    def _moves(self, goal: Goal, full: Price, missing: Price) -> Iterator[tuple[float, Group, int]]:
        """Every lesser width of every group, with what it gains for what it loses. What is missing of either goal is gained, and no more,
        so that the last cut is a small one."""
        for group in self.groups:
            before = self._price(self._touched(group))
            for width in _narrower(group, goal):
                after = self._price(self._resized(group, width))
                fewer = (before.parameters - after.parameters + group.vectors * (group.width - width)) / full.parameters
                faster = (before.seconds - after.seconds) / full.seconds
                gained = min(fewer, missing.parameters) + min(faster, missing.seconds)
                yield gained / max(group.lost(width), 1e-30), group, width

    def _price(self, sites: Mapping[str, Site]) -> Price:
        seconds = sum(self.table.seconds(site) if self.table else float(site.operations) for site in sites.values())
        return Price(parameters=float(sum(site.parameters for site in sites.values())), seconds=seconds)

    def _resized(self, group: Group, width: int) -> dict[str, Site]:
        """The sites that `group` touches, with it at another width."""
        fewer, after = group.width - width, self._touched(group)
        for name, site in after.items():
            gone_in, gone_out = (widths.get(name, 0) * fewer for widths in (group.inputs, group.outputs))
            after[name] = replace(site, num_in=site.num_in - gone_in, num_out=site.num_out - gone_out)
        return after

    def _touched(self, group: Group) -> dict[str, Site]:
        """The sites whose widths are the group's. Layers of other kinds are cut too, but have no price."""
        return {name: self.sites[name] for name in {**group.inputs, **group.outputs} if name in self.sites}


def _narrower(group: Group, goal: Goal) -> range:
    """The widths that a group may still be given, the widest first."""
    step = -(-goal.round_to // group.unit)
    least = max(step, math.ceil(_KEPT * len(group.scores)))
    return range((group.width - 1) // step * step, least - 1, -step)


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def find_sites(module: fx.GraphModule, example: Sequence[torch.Tensor]) -> dict[str, Site]:
    """Every convolution and every linear layer, by name, and where it stands."""
    import torch
    from torch import nn

    found: dict[str, Site] = {}

    def look(name: str) -> Callable[..., None]:
        def hook(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            found[name] = _site(layer, inputs[0])

        return hook

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)]
    taps = [layer.register_forward_pre_hook(look(name)) for name, layer in layers]
    with torch.no_grad():
        module.eval()(*example)
    for tap in taps:
        tap.remove()
    return found


def _site(layer: Any, x: torch.Tensor) -> Site:
    if hasattr(layer, "in_features"):
        return Site(num_in=layer.in_features, num_out=layer.out_features, size=(x[0, ..., 0].numel(), 1), linear=True)
    kernel, stride, size = ((1, *pair)[-2:] for pair in (layer.kernel_size, layer.stride, x.shape[2:]))  # a line is one row of a picture
    return Site(
        num_in=layer.in_channels, num_out=layer.out_channels, kernel=kernel, stride=stride, size=size,
        depthwise=layer.groups == layer.in_channels > 1,
    )  # fmt: skip


def find_groups(
    module: fx.GraphModule, example: Sequence[torch.Tensor], importance: Any, fixed: Sequence[nn.Module], heads: Mapping[nn.Module, int]
) -> list[Group]:
    """What can be cut. importance: one of Torch-Pruning's; fixed: layers whose outputs must stay; heads: layers whose outputs go by the
    head only -> the width of a head."""
    from torch import nn

    pruning = need("torch_pruning", why="to prune")
    graph = pruning.DependencyGraph().build_dependency(module.eval(), example_inputs=tuple(example))
    names = {layer: name for name, layer in module.named_modules()}
    grouped = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d) and 1 < m.groups < m.out_channels]
    groups: dict[_Root, Group] = {}
    for found in graph.get_all_groups(ignored_layers=[*fixed, *grouped], root_module_types=[nn.Conv1d, nn.Conv2d, nn.Linear]):
        scores, unit = importance(found), _unit(graph, found, heads)
        if scores is not None and unit and not any(dep.target.module in grouped for dep, _ in found):
            root = _Root(names[found[0].dep.target.module], found[0].dep.handler, unit)
            groups[root] = _group(graph, found, scores.detach(), unit, names)
    return [groups[root] for root in _cuttable(module, example, list(groups))]


class _Root(NamedTuple):
    """Where a group starts: a layer, what cuts its outputs, and how many of them can only go together."""

    layer: str
    handler: Any
    unit: int


def _cuttable(module: fx.GraphModule, example: Sequence[torch.Tensor], asked: list[_Root]) -> list[_Root]:
    """Those of the groups without whose first outputs the module still runs: what hangs on a layer by a reshape or a transposition may have
    been missed."""
    import torch

    tried = copy.deepcopy(module).eval()
    graph = need("torch_pruning").DependencyGraph().build_dependency(tried, example_inputs=tuple(example))
    try:
        for root in asked:
            graph.get_pruning_group(tried.get_submodule(root.layer), root.handler, list(range(root.unit))).prune()
        with torch.no_grad():
            tried(*example)
    except (RuntimeError, IndexError):
        half = len(asked) // 2
        return [*_cuttable(module, example, asked[:half]), *_cuttable(module, example, asked[half:])] if half else []
    return asked


def _unit(graph: Any, found: Any, heads: Mapping[nn.Module, int]) -> int:
    """How many channels of a group side by side are one head; 1 where it has no heads, 0 where its layers do not agree."""
    cut = [(dep.target.module, len(places)) for dep, places in found if graph.is_out_channel_pruning_fn(dep.handler)]
    layers = [(layer, count) for layer, count in cut if hasattr(layer, "weight")]
    units = {heads.get(layer, 1) for layer, _ in layers}
    agree = len(units) == 1 and (units == {1} or len({count for _, count in layers}) == 1)
    return units.pop() if agree else 0


def _group(graph: Any, found: Any, scores: torch.Tensor, unit: int, names: Mapping[Any, str]) -> Group:
    root, handler = found[0].dep.target.module, found[0].dep.handler

    def remove(gone: list[int]) -> None:
        places = [place * unit + n for place in gone for n in range(unit)]
        graph.get_pruning_group(root, handler, places).prune()

    group = Group(scores=scores.reshape(-1, unit).sum(1), remove=remove, unit=unit)
    for dep, places in found:
        layer, each = dep.target.module, len(places) // len(group.scores)
        if not (hasattr(layer, "in_channels") or hasattr(layer, "in_features")):
            group.vectors += each * sum(1 for p in getattr(layer, "parameters", list)() if p.ndim == 1)
            continue
        inside, outside = graph.is_in_channel_pruning_fn(dep.handler), graph.is_out_channel_pruning_fn(dep.handler)
        both = getattr(layer, "groups", 1) > 1  # of a depthwise layer
        if outside or both:
            group.outputs[names[layer]] = group.outputs.get(names[layer], 0) + each
            group.vectors += each * (layer.bias is not None)
        if inside or both:
            group.inputs[names[layer]] = group.inputs.get(names[layer], 0) + each
    return group
