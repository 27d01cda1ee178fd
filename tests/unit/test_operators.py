"""Which nodes an operator of a compiled program computes."""

from __future__ import annotations

from pathlib import Path

from hasten.runtimes._operators import Claim, Node, assign


def _node(name: str, kind: str, inputs: str, output: str) -> Node:
    return Node(name=name, kind=kind, inputs=tuple(inputs.split()), outputs=(output,))


# x -> conv1 -> relu1 -> conv2 -> add (with relu1) -> relu2
BLOCK = [
    _node("conv1", "Conv", "x w1", "c1"),
    _node("relu1", "Relu", "c1", "r1"),
    _node("conv2", "Conv", "r1 w2", "c2"),
    _node("add", "Add", "r1 c2", "a"),
    _node("relu2", "Relu", "a", "r2"),
]


def test_names_and_tensors_claim_their_nodes() -> None:
    assert assign(BLOCK[:2], [Claim(names=("conv1",)), Claim(tensors=("r1",))]) == [("conv1",), ("relu1",)]


def test_a_convolution_belongs_to_the_operator_that_gives_its_fused_result() -> None:
    claims = [Claim(tensors=("r1",)), Claim(tensors=("r2",))]
    assert assign(BLOCK, claims) == [("conv1", "relu1"), ("conv2", "add", "relu2")]


def test_what_follows_a_named_convolution_belongs_to_the_last_operator_that_it_waits_for() -> None:
    claims = [Claim(names=("conv1",)), Claim(names=("conv2",))]
    assert assign(BLOCK, claims) == [("conv1", "relu1"), ("conv2", "add", "relu2")]


def test_a_node_is_computed_once_however_often_it_is_claimed() -> None:
    assert assign(BLOCK[:1], [Claim(names=("conv1",)), Claim(names=("conv1",), tensors=("c1",))]) == [("conv1",), ()]


def test_an_operator_of_the_runtimes_own_has_no_nodes() -> None:
    assert assign(BLOCK[:1], [Claim(names=("reorder",)), Claim(names=("conv1",))]) == [(), ("conv1",)]


def test_without_a_graph_there_are_no_nodes(tmp_path: Path) -> None:
    from hasten.runtimes._operators import kept_nodes

    assert assign(kept_nodes(tmp_path), [Claim(names=("conv1",))]) == [()]
