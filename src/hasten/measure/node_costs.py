"""What each operator of a program computes and moves, from the nodes of the graph that it stands for. Nothing is run."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.need import need
from .flops import Shape, constants_of, itemsize, known_shapes, node_flops, read_model, with_shapes

if TYPE_CHECKING:
    import onnx

_QUANTISE = {"QuantizeLinear", "DequantizeLinear"}
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a group of nodes costs that is computed in one piece.

    flops: operations; size_bytes: what is read from outside the group (weights too) and written for outside it, each once, as
    wide as it is stored: 8 bits between a quantise and a dequantise; None where shapes are not known. int8: its products are of 8 bits.
    """

    flops: int | None
    size_bytes: int | None
    int8: bool = False


class Costs:
    """The costs of an ONNX graph at one batch size. shapes: by input name, the shape of one sample. Raises ModelError, MissingExtra."""

    def __init__(self, path: Path, batch: int, shapes: Mapping[str, Shape]) -> None:
        model = read_model(path)
        constants = dict(constants_of(model.graph))
        try:
            graph = with_shapes(model, batch, shapes)
        except need("onnx").shape_inference.InferenceError:
            graph = model.graph
        self._shapes = known_shapes(graph, constants)
        self._types = {name: tensor.data_type for name, tensor in constants.items()}
        for value in [*graph.input, *graph.value_info, *graph.output]:
            self._types.setdefault(value.name, value.type.tensor_type.elem_type)
        self._nodes = {node.name: node for node in graph.node if node.name}
        self._maker = {tensor: node for node in graph.node for tensor in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for tensor in node.input:
                self._users.setdefault(tensor, []).append(node)
        self._outputs = {value.name for value in graph.output}

    def of(self, names: Collection[str]) -> Cost:
        """The cost of the nodes `names` together; of no nodes, nothing is known."""
        nodes = [self._nodes[name] for name in names if name in self._nodes]
        if not nodes:
            return Cost(flops=None, size_bytes=None)
        counts = [node_flops(node, self._shapes)[0] for node in nodes]
        flops = None if None in counts else sum(count for count in counts if count is not None)
        return Cost(flops=flops, size_bytes=self._moved(nodes), int8=any(self._is_int8(node) for node in nodes))

    def _moved(self, nodes: list[onnx.NodeProto]) -> int | None:
        inside = {tensor for node in nodes for tensor in node.output}
        if not all(node.op_type in _QUANTISE for node in nodes):
            reads = {self._stored(tensor) for node in nodes for tensor in node.input if tensor}
            reads = {tensor for tensor in reads if not self._made_of(tensor, inside)}
            writes = {self._kept(self._stored(tensor)) for tensor in inside if self._leaves(tensor, inside)}
        else:
            reads, writes = {t for node in nodes for t in node.input if t} - inside, inside
        sizes = [self._bytes(tensor) for tensor in (*reads, *writes)]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def _stored(self, tensor: str) -> str:
        """What lies in memory for `tensor`: behind a dequantise the 8 bits before it."""
        maker = self._maker.get(tensor)
        return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else tensor

    def _made_of(self, tensor: str, inside: set[str]) -> bool:
        """Whether `tensor` is one of `inside`, or one of them quantised."""
        maker = self._maker.get(tensor)
        return tensor in inside or (maker is not None and maker.op_type == "QuantizeLinear" and maker.input[0] in inside)

    def _kept(self, tensor: str) -> str:
        """What is written of `tensor`: its 8 bits where it is quantised next."""
        return next((user.output[0] for user in self._users.get(tensor, ()) if user.op_type == "QuantizeLinear"), tensor)

    def _leaves(self, tensor: str, inside: set[str]) -> bool:
        """Whether somebody outside the group needs `tensor`, quantised or not."""
        if tensor in self._outputs:
            return True
        users = self._users.get(tensor, [])
        return any(self._leaves(u.output[0], inside) if u.op_type in _QUANTISE else u.output[0] not in inside for u in users)

    def _bytes(self, tensor: str) -> int | None:
        shape, kind = self._shapes.get(tensor), self._types.get(tensor)
        return None if shape is None or not kind else math.prod(shape) * itemsize(kind)

    def _is_int8(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _WEIGHTED and all(self._stored(tensor) != tensor for tensor in node.input[:2])
