"""What reshapes say of widths: which ones something counts on, and which are heads of attention side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .lift import layer_of

if TYPE_CHECKING:
    from torch import fx, nn

_RESHAPES = (".view", ".reshape", ".unflatten", ".expand")
_BY_HEAD = ("transpose", "permute", "contiguous", "clone", "matmul", "mul", "div", "add", "softmax", "dropout", "to")
_ATTENTION = ("softmax", "scaled_dot_product_attention")


def fixed(module: fx.GraphModule) -> list[nn.Module]:
    """The layers whose width something else counts on: the outputs, and reshapes that name their sizes (but for heads that may go)."""
    free = set().union(*_regions(module).values())
    frontier = [n for n in module.graph.nodes if n.op == "output" or (_is(n, *_RESHAPES) and n not in free)]
    found, seen = [], set(frontier)
    while frontier:
        for source in frontier.pop().all_input_nodes:
            if source in seen:
                continue
            seen.add(source)
            layer = layer_of(module, source)
            if layer is not None and hasattr(layer, "weight"):
                found.append(layer)
            if layer is None or not (hasattr(layer, "in_features") or hasattr(layer, "in_channels")):
                frontier.append(source)  # what has no width of its own has that of what is before it
    return found


def heads(module: fx.GraphModule) -> dict[nn.Module, int]:
    """The layers whose outputs are heads of attention side by side -> the width of a head. They can lose whole heads: what becomes of a
    head is computed from it alone, and their number is nowhere written."""
    return {module.get_submodule(str(node.args[0].target)): int(node.args[1][-1]) for node in _regions(module)}  # type: ignore[union-attr,arg-type,index]


def _regions(module: fx.GraphModule) -> dict[fx.Node, set[fx.Node]]:
    """The reshapes that part a layer's outputs into heads -> all that is computed by the head from there to where heads are joined."""
    found = {node: _region(module, node) for node in module.graph.nodes if _parts(module, node)}
    attention = [region for region in found.values() if any(_is(n, *_ATTENTION) for n in region)]  # values only meet it
    found = {node: region for node, region in found.items() if any(region & other for other in attention)}
    while bad := [node for node, region in found.items() if not _alone(region, set().union(*found.values()))]:
        found = {node: region for node, region in found.items() if node not in bad}
    return found


def _parts(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether it is a reshape [..., W] -> [..., -1, d] of what a layer gave to it alone."""
    shape, before = _shapes(node)
    if len(shape) != len(before) + 1 or shape[-2] != -1 or not isinstance(shape[-1], int):
        return False
    source: Any = node.args[0]
    return hasattr(layer_of(module, source), "in_features") and len(source.users) == 1


def _joins(node: fx.Node) -> bool:
    """Whether it is a reshape [..., H, d] -> [..., -1]."""
    shape, before = _shapes(node)
    return len(shape) == len(before) - 1 and shape[-1] == -1


def _region(module: fx.GraphModule, start: fx.Node) -> set[fx.Node]:
    """What is computed from `start` until heads are joined; empty where something in it does not go by the head."""
    frontier, region = [start], {start}
    while frontier:
        node = frontier.pop()
        if node is not start and _joins(node):
            continue
        for user in node.users:
            dropout = "Dropout" in type(layer_of(module, user)).__name__
            if not (dropout or _joins(user) or _is(user, *(f"aten.{name}." for name in (*_BY_HEAD, *_ATTENTION)))):
                return set()
            if user not in region:
                region.add(user)
                frontier.append(user)
    return region


def _alone(region: set[fx.Node], known: set[fx.Node]) -> bool:
    """Whether what comes in from outside (a mask) is the same for every head: its second axis is 1, or it has less than four."""
    parted = {node for node in region if len(_shapes(node)[0]) == len(_shapes(node)[1]) + 1}
    outside = {source for node in region - parted for source in node.all_input_nodes} - known
    return all(len(s.meta["val"].shape) < 4 or s.meta["val"].shape[1] == 1 for s in outside if hasattr(s.meta.get("val"), "shape"))


def _is(node: fx.Node, *words: str) -> bool:
    return node.op == "call_function" and any(word in str(node.target) for word in words)


def _shapes(node: fx.Node) -> tuple[list[Any], list[Any]]:
    """What a view or reshape is asked for, and the shape that it starts from; both empty for another node."""
    import torch

    aten = torch.ops.aten
    if node.target not in (aten.view.default, aten.reshape.default):
        return [], []
    return list(node.args[1]), list(node.args[0].meta["val"].shape)  # type: ignore[arg-type,union-attr]
