"""Residual blocks that can be left out: what stays is the shortcut beside them."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .cut import Cut, find_sites
from .lift import layer_of

if TYPE_CHECKING:
    from torch import fx, nn

    from .student import Student

_SAMPLES = 128  # that tell what a block is worth, in whole batches


def leave_out(student: Student, count: int) -> list[str]:
    """Take `count` blocks out of the student's module, in place: each time the one that loses least for the time that it saves (Veit et
    al. 2016, arXiv:1605.06431: a residual network works without any one of its blocks; Sajjad et al. 2020, arXiv:2004.03844, for
    encoders). Returns their names; fewer where there are no more."""
    gone: list[str] = []
    for _ in range(count):
        loss, seconds = _loss(student, student.module), _seconds(student, student.module)
        prices = {name: _price(student, name, loss, seconds) for name in blocks(student.module)}
        if not prices:
            break
        gone.append(min(prices, key=prices.__getitem__))
        remove(student.module, gone[-1])
    return gone


def blocks(module: fx.GraphModule) -> list[str]:
    """The names of what ends a block: an addition whose one side is computed from the other side, which has its shape; or, where the
    other side is normalised already, the normalisation that alone reads the sum (the encoders of Vaswani et al. 2017 and BERT, whose
    layers are two such blocks each, attention and MLP)."""
    return [node.name for node in module.graph.nodes if _start(module, node) is not None]


def remove(module: fx.GraphModule, name: str) -> None:
    """Put what the block that ends in `name` starts from in its place; what only the block needed goes too."""
    node = next(n for n in module.graph.nodes if n.name == name)
    start = _start(module, node)
    assert start is not None
    node.replace_all_uses_with(start)
    module.graph.erase_node(node)
    # Attention counts as impure, since it may drop numbers at random: it would stay, computed for nobody.
    module.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    module.delete_all_unused_submodules()
    module.recompile()


def _price(student: Student, name: str, loss: float, seconds: float) -> float:
    """The loss that leaving out a block adds for each second that it saves. loss, seconds: of the module with it."""
    tried = copy.deepcopy(student.module)
    remove(tried, name)
    saved = seconds - _seconds(student, tried)
    return (_loss(student, tried) - loss) / saved if saved > 0 else math.inf


def _loss(student: Student, module: nn.Module) -> float:
    import torch

    module.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=student.training.bfloat16):
        asked = list(itertools.islice(student.batches.epoch(0), -(-_SAMPLES // student.batches.size)))
        return sum(float(student.loss(module, batch)) for batch in asked) / len(asked)


def _seconds(student: Student, module: fx.GraphModule) -> float:
    """Of its layers, as the table of widths prices them, or their multiply-adds."""
    return Cut(find_sites(module, student.example()), [], student.widths()).price().seconds


def _start(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """What the block that ends in `node` starts from, or None where none ends there."""
    if norm := _norm(module, node):
        (total,) = node.all_input_nodes
        shortcut = _shortcut(module, total) if len(total.users) == 1 else None
        before = _norm(module, _undropped(module, shortcut)) if shortcut is not None else None
        return shortcut if before is not None and before.normalized_shape == norm.normalized_shape else None
    only = next(iter(node.users)) if len(node.users) == 1 else None
    return None if only is not None and _start_of_norm(module, only) else _shortcut(module, node)


def _start_of_norm(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a block ends in `node`, a normalisation."""
    return _norm(module, node) is not None and _start(module, node) is not None


def _norm(module: fx.GraphModule, node: fx.Node) -> Any:
    """The layer normalisation that the node calls, or None."""
    from torch import nn

    layer = layer_of(module, node)
    return layer if isinstance(layer, nn.LayerNorm) else None


def _undropped(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The node, or what it drops numbers of in training."""
    from torch import nn

    while isinstance(layer_of(module, node), nn.Dropout):
        (node,) = node.all_input_nodes
    return node


def _shortcut(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The side of an addition that the other side is computed from, or None where it is no residual block."""
    import torch

    sides = [side for side in node.args[:2] if isinstance(side, torch.fx.Node)]
    if node.target not in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) or len(sides) != 2:
        return None
    shapes = [side.meta["val"].shape for side in sides]
    for shortcut, branch in (sides, sides[::-1]):
        if shapes[0] == shapes[1] and branch is not shortcut and _comes_from(module, branch, shortcut):
            return shortcut
    return None


def _comes_from(module: fx.GraphModule, branch: fx.Node, source: fx.Node) -> bool:
    """Whether `branch` is computed from `source`, and from nothing else that layers made of the inputs: a mask may come from beside it,
    and so may constants and weights."""
    above = _above([branch], until=source)
    if source not in above:
        return False
    through = {source}
    for node in module.graph.nodes:  # in the order of computing
        if node in above and through & set(node.all_input_nodes):
            through.add(node)
    beside = [node for node in above - through if layer_of(module, node) is not None]
    return not any(node.op == "placeholder" for node in _above(beside, until=source))


def _above(nodes: Iterable[fx.Node], *, until: fx.Node) -> set[fx.Node]:
    """The nodes and all that they are computed from, `until` with nothing of what it is computed from."""
    frontier = list(nodes)
    seen = set(frontier)
    while frontier:
        node = frontier.pop()
        new = [] if node is until else [n for n in node.all_input_nodes if n not in seen]
        seen.update(new)
        frontier += new
    return seen
