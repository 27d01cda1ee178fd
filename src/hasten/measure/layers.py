"""Which of the kinds that `ceilings` measures each layer of a graph is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.need import need
from .worker import State


def layer_kinds(state: State, path: Path) -> dict[str, str]:
    """Node name -> kind of `ceilings.KINDS`, for the convolutions and matrix products of the ONNX file at `path`."""
    graph = need("onnx", why="to look into graphs").load(str(path), load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kinds = {"Conv": _convolution, "MatMul": lambda *_: "MatMul", "Gemm": lambda *_: "MatMul"}
    return {node.name: kinds[node.op_type](node, shapes) for node in graph.node if node.op_type in kinds and node.name}


def _convolution(node: Any, shapes: dict[str, tuple[int, ...]]) -> str:
    weight = shapes.get(node.input[1], (0, 0))
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if group > 1 and group == weight[0]:
        return "Conv depthwise"
    return "Conv 1x1" if len(weight) > 2 and set(weight[2:]) == {1} else "Conv"
