"""From an exported program to a module that can be trained and cut, and back.

An exported program is a flat graph of operators whose weights are loose tensors, and it can only evaluate. `lift` puts the operators
that have weights back into layers of torch.nn, so that what knows layers (pruning, fake quantisation, low rank, optimisers with rules for
layers) works on any model, whatever code it came from; what has no weights stays an operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import ExportError, HastenError
from ..core.need import need

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

Make = Callable[[Mapping[str, Any], "torch.Tensor"], "nn.Module"]


def read_module(path: Path) -> fx.GraphModule:
    """`lift` of the exported program at `path`."""
    torch = need("torch", why="to train")
    return lift(torch.export.load(path))


def lift(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a module whose layers have weights of their own: same inputs, same outputs, in evaluation mode.

    Layers are called after their weights, with `_` for `.`: `blocks_0_conv1`. A layer that is called twice stays one layer. Dropout
    comes back to life in training mode.
    """
    from torch import fx

    flat = program.module()
    graph = flat.graph
    layers: dict[str, str] = {}  # name -> what it is: one weight may be used in two ways
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
        elif node.op == "call_function" and (made := _layer(flat, node)):
            name, layer, inputs = made
            name = name if layers.get(name, repr(layer)) == repr(layer) else f"{name}_{node.name}"
            if name not in layers:
                layers[name] = repr(layer)
                flat.add_submodule(name, layer)
            with graph.inserting_before(node):
                called = graph.call_module(name, inputs)
            called.meta = dict(node.meta)
            node.replace_all_uses_with(called)
            graph.erase_node(node)
        elif node.op == "call_function":
            _free_width(node)
    graph.eliminate_dead_code()
    # A new module takes over what the graph uses and no more, and can change between training and evaluation.
    return fx.GraphModule(flat, graph).eval()


def lower(
    module: nn.Module, inputs: Sequence[torch.Tensor], path: Path, *, free_batch: bool, free: Sequence[Sequence[int]] | None = None
) -> None:
    """Export `module` in evaluation mode to `path`. inputs: an example of each, [n >= 2, ...]; free: other axes of each that may have any
    length, None for none. Raises ExportError."""
    import torch

    module.eval()
    given = tuple(inputs) if free_batch else tuple(value[:1] for value in inputs)
    batch = {0: torch.export.Dim("batch")} if free_batch else {}
    shapes = tuple({**batch, **dict.fromkeys(axes, torch.export.Dim.DYNAMIC)} for axes in free or [()] * len(given))
    try:
        torch.export.save(torch.export.export(module, given, dynamic_shapes=shapes), path)
    except HastenError:
        raise
    except Exception as error:  # the exporter's errors have no common base
        text = " ".join(str(error).split())[:200]
        raise ExportError("trained model", f"must be exportable as the original was ({type(error).__name__}: {text})") from error


def flat_outputs(outputs: Any) -> tuple[torch.Tensor, ...]:
    """What a module returned, as a tuple."""
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def layer_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that a node of the module's graph calls; None where it calls none."""
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _layer(flat: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module, tuple[fx.Node, ...]] | None:
    """Name, layer and inputs of what the node computes, or None where it has no weights of its own."""
    import torch

    makers = _makers()
    if node.target is torch.ops.aten.dropout.default:
        return f"dropout_{node.name}", torch.nn.Dropout(float(node.args[1])), (node.args[0],)  # type: ignore[arg-type,return-value]
    if node.target not in makers:
        return None
    arguments = _named(node)
    owner = arguments["weight"]
    loose = [a for name, a in arguments.items() if name in ("weight", "bias", "running_mean", "running_var") and a is not None]
    if not all(isinstance(a, torch.fx.Node) and a.op == "get_attr" for a in loose) or owner is None:
        return None
    tensors = {name: _attribute(flat, a.target) if a in loose else a for name, a in arguments.items()}
    data = next(a for name, a in arguments.items() if name in ("input", "indices"))
    layer = makers[node.target](tensors, data.meta["val"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if tensors.get(name) is not None:
            setattr(layer, name, tensors[name])
    return str(owner.target).removesuffix(".weight").replace(".", "_"), layer, (data,)


def _makers() -> dict[Any, Make]:
    """Operator -> how its layer is made: from the operator's arguments and its input."""
    import torch
    from torch import nn

    aten = torch.ops.aten
    norms = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}

    def convolution(kind: type[nn.Module]) -> Make:
        def make(a: Mapping[str, Any], x: torch.Tensor) -> nn.Module:
            out, each, *kernel = a["weight"].shape
            return kind(
                each * a["groups"], out, tuple(kernel), stride=_each(a["stride"], kernel), padding=_each(a["padding"], kernel),
                dilation=_each(a["dilation"], kernel), groups=a["groups"], bias=a["bias"] is not None,
            )  # fmt: skip

        return make

    return {
        aten.conv1d.default: convolution(nn.Conv1d),
        aten.conv2d.default: convolution(nn.Conv2d),
        aten.conv2d.padding: convolution(nn.Conv2d),
        aten.linear.default: lambda a, x: nn.Linear(a["weight"].shape[1], a["weight"].shape[0], bias=a["bias"] is not None),
        aten.batch_norm.default: lambda a, x: norms[x.ndim](len(a["weight"]), eps=a["eps"], momentum=a["momentum"]),
        aten.layer_norm.default: lambda a, x: nn.LayerNorm(tuple(a["normalized_shape"]), eps=a["eps"], bias=a["bias"] is not None),
        aten.embedding.default: lambda a, x: nn.Embedding(a["weight"].shape[0], a["weight"].shape[1]),
    }  # fmt: skip


def _named(node: fx.Node) -> dict[str, Any]:
    """The node's arguments by name, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def _each(value: Any, kernel: Sequence[int]) -> Any:
    """One number for each axis of the kernel; text (`same`) as it is."""
    if isinstance(value, str):
        return value
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * len(kernel) if len(values) == 1 else values)


def _attribute(flat: fx.GraphModule, path: Any) -> Any:
    *parents, name = str(path).split(".")
    return getattr(flat.get_submodule(".".join(parents)), name)


def _free_width(node: fx.Node) -> None:
    """A view says what it joins or parts instead of how many numbers there were, for that may change: all axes but the first that become
    one, a last axis that becomes heads of one width, and heads that become one axis again."""
    import torch

    aten = torch.ops.aten
    if node.target not in (aten.view.default, aten.reshape.default):
        return
    source, shape = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    assert isinstance(source, torch.fx.Node)
    size = source.meta["val"].shape
    joined = math.prod(size[1:]) if all(isinstance(n, int) for n in size[1:]) else None
    if len(shape) == 2 and len(size) > 2 and shape[1] in (joined, -1):
        node.target, node.args = aten.flatten.using_ints, (source, 1)
    elif -1 not in shape and (place := _head_axis(list(size), shape)) is not None:
        node.args = (source, [*shape[:place], -1, *shape[place + 1 :]])


def _head_axis(before: list[Any], after: list[Any]) -> int | None:
    """The axis of `after` that follows from the others where its last two axes come from one (how many heads), or its last from two."""
    if not all(isinstance(n, int) for n in (*before[-2:], *after[-2:])):
        return None
    if len(after) == len(before) + 1 and after[-2] * after[-1] == before[-1]:
        return len(after) - 2
    if len(after) == len(before) - 1 and after[-1] == before[-2] * before[-1]:
        return len(after) - 1
    return None
