"""What int8 owes the machine it runs on, and what its variants owe the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hasten.core.candidate import Candidate
from hasten.core.registry import find, get
from hasten.core.seams import Check, Runtime, Target, Technique
from hasten.testing import reference_model

onnx = pytest.importorskip("onnx")
TARGET = Target(threads=1)
SATURATES = frozenset({"u8s8-saturates"})


def sqnr(expected: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()))


def run(candidate: Candidate, runtime: str, folder: Path) -> np.ndarray:
    folder.mkdir()
    kind = get(Runtime, runtime)()
    kind.compile(candidate, TARGET, folder)
    return kind.load(folder, TARGET).run(reference_model("digits").inputs)["logits"]


@pytest.mark.parametrize("name", ["static-int8", "static-int8-nncf", "dynamic-int8"])
def test_the_space_takes_the_weight_range_from_the_machine(name: str) -> None:
    model, kind = reference_model("digits"), get(Technique, name)
    assert {t.options().get("reduce_range", False) for t in kind.space(model.profile(facts=SATURATES))} == {True}
    assert {t.options().get("reduce_range", False) for t in kind.space(model.profile())} == {False}


@pytest.mark.parametrize("name", ["static-int8", "static-int8-nncf"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_with_the_range_that_the_machine_asked_for_keeps_the_outputs(name: str, runtime: str, tmp_path: Path) -> None:
    model = reference_model("digits")
    facts = frozenset().union(*(kind().ask(TARGET).facts for kind in find(Check).values()))
    technique = next(iter(get(Technique, name).space(model.profile(facts=facts))))
    (tmp_path / "out").mkdir()
    candidate = technique.apply(model.graph, model.context(tmp_path / "out"))
    assert sqnr(model.outputs["logits"], run(candidate, runtime, tmp_path / "program")) > 20
    assert candidate.path.stat().st_size < 0.5 * model.graph.path.stat().st_size


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_every_calibration_keeps_the_outputs(calibration: str, tmp_path: Path) -> None:
    model = reference_model("digits")
    (tmp_path / "out").mkdir()
    technique = get(Technique, "static-int8")(calibration=calibration, reduce_range=True)
    candidate = technique.apply(model.graph, model.context(tmp_path / "out"))
    assert sqnr(model.outputs["logits"], run(candidate, "onnxruntime", tmp_path / "program")) > 15


def test_a_graph_that_looks_like_a_transformer_gets_only_its_matrix_products() -> None:
    kind = get(Technique, "static-int8")
    assert {t.options().get("ops", "all") for t in kind.space(reference_model("attention").profile())} == {"matmul"}
    assert {t.options().get("ops", "all") for t in kind.space(reference_model("digits").profile())} == {"all"}


def test_what_a_transformer_adds_to_its_products_is_added_in_float(tmp_path: Path) -> None:
    model = reference_model("attention")
    technique = next(iter(get(Technique, "static-int8").space(model.profile())))
    graph = onnx.load(str(technique.apply(model.graph, model.context(tmp_path)).path)).graph
    products = {node.output[0] for node in graph.node if node.op_type in ("MatMul", "Gemm")}
    assert products
    assert not [node.name for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in products]


def test_dynamic_int8_says_why_it_leaves_convolutions_alone() -> None:
    model = reference_model("digits")
    assert get(Technique, "dynamic-int8")().fits(None, model.profile()) == ("the graph is mostly convolutions, which it leaves as they are")
