"""Runtimes say in one line what they lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.errors import NotPossibleHere
from hasten.core.machine import this_machine
from hasten.core.registry import get
from hasten.core.seams import Profile, Runtime, Target
from hasten.core.signature import Signature, TensorSpec

onnx = pytest.importorskip("onnx")
TARGET = Target(threads=1)


def strange(folder: Path) -> Candidate:
    """A model of one operator that nobody has."""
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Frobnicate", ["x"], ["y"], domain="strange")],
        "strange",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", 4])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", 4])],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("strange", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), str(folder / "strange.onnx"))
    tensor = TensorSpec(name="x", dtype="float32", shape=(None, 4))
    signature = Signature(inputs=(tensor,), outputs=(TensorSpec(name="y", dtype="float32", shape=(None, 4)),))
    return Candidate(floor=Floor.GRAPH, path=folder / "strange.onnx", signature=signature, lineage=(Step(name="original"),))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_operator_that_it_lacks_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(NotPossibleHere, match=f"runtime {name}: has no operator '[^']*Frobnicate'") as caught:
        get(Runtime, name)().compile(strange(tmp_path), TARGET, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_openvino_aims_at_throughput_only_where_throughput_is_the_aim() -> None:
    kind = get(Runtime, "openvino")
    profiles = {aim: Profile(machine=this_machine(), target=TARGET, objective=aim) for aim in ("latency", "throughput")}
    hints = {aim: {r.options().get("hint", "latency") for r in kind.space(profile)} for aim, profile in profiles.items()}
    assert hints == {"latency": {"latency"}, "throughput": {"latency", "throughput"}}


def test_the_memory_arena_is_a_knob_only_where_memory_is_the_aim() -> None:
    kind = get(Runtime, "onnxruntime")
    arenas = {o: {r.arena for r in kind.space(Profile(machine=this_machine(), target=TARGET, objective=o))} for o in ("latency", "memory")}  # type: ignore[attr-defined]
    assert arenas == {"latency": {True}, "memory": {True, False}}
