"""Residual blocks that can be left out: what stays is the shortcut beside them."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx

    from .student import Student

_BATCHES = 4  # that tell what a block is worth


def leave_out(student: Student, count: int) -> list[str]:
    """Take `count` blocks out of the student's module, in place: each time the one without which the loss is least (Veit et al. 2016,
    arXiv:1605.06431: a residual network works without any one of its blocks). Returns their names; fewer where there are no more."""
    gone: list[str] = []
    for _ in range(count):
        names = blocks(student.module)
        if not names:
            break
        least = min(names, key=lambda name: _loss_without(student, name))
        remove(student.module, least)
        gone.append(least)
    return gone


def blocks(module: fx.GraphModule) -> list[str]:
    """The names of additions whose one side is computed from the other side alone, which has its shape."""
    return [node.name for node in module.graph.nodes if _shortcut(node) is not None]


def remove(module: fx.GraphModule, name: str) -> None:
    """Put the shortcut in the place of the addition called `name`; what only its other side needed goes too."""
    node = next(n for n in module.graph.nodes if n.name == name)
    shortcut = _shortcut(node)
    assert shortcut is not None
    node.replace_all_uses_with(shortcut)
    module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _loss_without(student: Student, name: str) -> float:
    import torch

    tried = copy.deepcopy(student.module).eval()
    remove(tried, name)
    with torch.no_grad():
        return sum(float(student.loss(tried, batch)) for batch in itertools.islice(student.batches.epoch(0), _BATCHES))


def _shortcut(node: fx.Node) -> fx.Node | None:
    """The side of an addition that the other side is computed from, or None where it is no residual block."""
    import torch

    sides = [side for side in node.args[:2] if isinstance(side, torch.fx.Node)]
    if node.target not in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) or len(sides) != 2:
        return None
    shapes = [side.meta["val"].shape for side in sides]
    for shortcut, branch in (sides, sides[::-1]):
        if shapes[0] == shapes[1] and branch is not shortcut and _comes_from(branch, shortcut):
            return shortcut
    return None


def _comes_from(branch: fx.Node, source: fx.Node) -> bool:
    """Whether all that `branch` is computed from comes through `source`; constants and weights are from nowhere."""
    frontier, seen = [branch], {source}
    met = False
    while frontier:
        for node in frontier.pop().all_input_nodes:
            met |= node is source
            if node.op == "placeholder" and node is not source:
                return False
            if node not in seen:
                seen.add(node)
                frontier.append(node)
    return met
