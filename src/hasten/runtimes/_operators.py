"""Which nodes of an ONNX graph an operator of a compiled program computes, after a runtime fused and renamed them.

A runtime still tells something of the past of each operator: a node's name, or the name of a tensor that it computes. From
those the rest is filled in along the edges of the graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.need import has, need

HEAVY = frozenset({"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger"})
"""What a fused operator is named after."""

_MOVED = frozenset({"DequantizeLinear", "QuantizeLinear"})
_NAME = "nodes.json"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the candidate's graph. inputs, outputs: names of tensors."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a runtime says of one of its operators. names: what may be names of nodes; tensors: of tensors that nodes give."""

    names: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


def read_nodes(path: Path) -> list[Node]:
    """The named nodes of the ONNX file at `path`, in its order, which is one of execution. Raises MissingExtra."""
    graph = need("onnx", why="to name the nodes of a graph").load(str(path), load_external_data=False).graph
    return [_node(n) for n in graph.node if n.name]


def write_nodes(source: Path, folder: Path) -> None:
    """Keep in `folder` what `kept_nodes` will need of the ONNX file at `source`, where onnx is installed: a few kilobytes."""
    if has("onnx"):
        rows = [[n.name, n.kind, n.inputs, n.outputs] for n in read_nodes(source) if n.kind not in _MOVED]
        (folder / _NAME).write_text(json.dumps(rows, separators=(",", ":")), encoding="utf8")


def kept_nodes(folder: Path) -> list[Node]:
    """What `write_nodes` kept; nothing where it did not."""
    path = folder / _NAME
    rows = json.loads(path.read_text(encoding="utf8")) if path.is_file() else []
    return [Node(name=name, kind=kind, inputs=tuple(inputs), outputs=tuple(outputs)) for name, kind, inputs, outputs in rows]


def assign(nodes: Sequence[Node], claims: Sequence[Claim]) -> list[tuple[str, ...]]:
    """For each claim, in the order of execution, the names of the nodes that its operator computes. A node is in one at most."""
    made_by = {tensor: node for node in nodes for tensor in node.outputs if tensor}
    owner = _claimed({node.name for node in nodes}, made_by, claims)
    _fill_forward(nodes, owner)
    _fill_backward(nodes, made_by, owner)
    owned: list[list[str]] = [[] for _ in claims]
    for node in nodes:
        if node.name in owner:
            owned[owner[node.name]].append(node.name)
    return [tuple(names) for names in owned]


def _claimed(names: set[str], made_by: Mapping[str, Node], claims: Sequence[Claim]) -> dict[str, int]:
    owner: dict[str, int] = {}
    for number, claim in enumerate(claims):
        for name in claim.names:
            if name in names:
                owner.setdefault(name, number)
        for tensor in claim.tensors:
            if tensor in made_by:
                owner.setdefault(made_by[tensor].name, number)
    return owner


def _fill_forward(nodes: Sequence[Node], owner: dict[str, int]) -> None:
    """A heavy node that nobody claims was fused into the operator that its result flows into first."""
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for tensor in node.inputs:
            users.setdefault(tensor, []).append(node)
    for node in nodes:
        if node.kind not in HEAVY or node.name in owner:
            continue
        front, seen = [node], {node.name}
        while front and node.name not in owner:
            front = [user for n in front for tensor in n.outputs for user in users.get(tensor, ()) if user.name not in seen]
            seen |= {n.name for n in front}
            reached = [owner[n.name] for n in front if n.name in owner]
            if reached:
                owner[node.name] = min(reached)


def _fill_backward(nodes: Sequence[Node], made_by: Mapping[str, Node], owner: dict[str, int]) -> None:
    """A light node that nobody claims was fused into the last operator that it waits for."""
    for node in nodes:
        if node.name not in owner:
            waits = [owner[made_by[t].name] for t in node.inputs if t in made_by and made_by[t].name in owner]
            if waits:
                owner[node.name] = max(waits)


def _node(node: Any) -> Node:
    return Node(name=node.name, kind=node.op_type, inputs=tuple(node.input), outputs=tuple(node.output))
