"""Where the time of a call goes: every convolution and matrix product of a graph is found again in what the runtimes tell."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.need import need
from hasten.core.registry import get
from hasten.core.samples import as_parts, make_splits
from hasten.core.seams import OperatorTime, Runtime, Target, Technique
from hasten.core.signature import Signature, TensorSpec
from hasten.core.store import Store
from hasten.core.trial import Trial
from hasten.core.workload import Workload
from hasten.measure.ceilings import KINDS, Ceilings, measure_ceilings
from hasten.search.observer import Observer
from hasten.search.study import Study
from hasten.search.workshop import Workshop
from hasten.testing import ReferenceModel, reference_model

HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
TARGET = Target(threads=1)
GRAPHS = ["float32", "simplify", "static-int8", "static-int8-nncf"]


def _graph(model: ReferenceModel, technique: str, folder: Path) -> Candidate:
    if technique == "float32":
        return model.graph
    folder.mkdir()
    return get(Technique, technique)().apply(model.graph, model.context(folder))


def _times(name: str, candidate: Candidate, model: ReferenceModel, folder: Path) -> tuple[tuple[OperatorTime, ...], float]:
    """The operators, and the seconds of the fastest of ten calls without a profiler."""
    runtime, inputs = get(Runtime, name)(), {key: array[:1] for key, array in model.inputs.items()}
    folder.mkdir()
    runtime.compile(candidate, TARGET, folder)
    operators = runtime.operator_times(folder, TARGET, inputs, 20)
    assert operators is not None
    program, calls = runtime.load(folder, TARGET), []
    for _ in range(10):
        began = time.perf_counter()
        program.run(inputs)
        calls.append(time.perf_counter() - began)
    return operators, min(calls)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("technique", GRAPHS)
@pytest.mark.parametrize("model", ["digits", "two-by-two", "attention"])
def test_each_heavy_node_is_computed_by_exactly_one_operator(name: str, technique: str, model: str, tmp_path: Path) -> None:
    reference = reference_model(model)
    candidate = _graph(reference, technique, tmp_path / "graph")
    operators, _ = _times(name, candidate, reference, tmp_path / "program")
    heavy = {node.name for node in need("onnx").load(str(candidate.path)).graph.node if node.op_type in HEAVY}
    named = Counter(node for operator in operators for node in operator.nodes)
    assert heavy
    assert {node: named[node] for node in heavy} == dict.fromkeys(heavy, 1)


def test_onnxruntime_times_nodes_without_names_too_and_a_branch_once(tmp_path: Path) -> None:
    onnx = need("onnx")
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    inner = [onnx.helper.make_graph([make(op, ["x"], [op])], op, [], [value(op, 1, ["N", 3])]) for op in ("Exp", "Tanh")]
    nodes = [
        make("ReduceSum", ["x"], ["s"], keepdims=0),
        make("Cast", ["s"], ["positive"], to=9),
        make("If", ["positive"], ["z"], name="choice", then_branch=inner[0], else_branch=inner[1]),
        make("Erf", ["z"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["N", 3])], [value("y", 1, ["N", 3])])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), str(tmp_path / "g.onnx"))
    specs = [TensorSpec(name=name, dtype="float32", shape=(None, 3)) for name in "xy"]
    signature = Signature(inputs=(specs[0],), outputs=(specs[1],))
    candidate = Candidate(floor=Floor.GRAPH, path=tmp_path / "g.onnx", signature=signature, lineage=(Step(name="g"),))
    runtime = get(Runtime, "onnxruntime")()
    (tmp_path / "program").mkdir()
    runtime.compile(candidate, TARGET, tmp_path / "program")
    operators = runtime.operator_times(tmp_path / "program", TARGET, {"x": np.ones((1, 3), np.float32)}, 5)
    assert operators is not None
    assert [o.kind for o in operators] == ["ReduceSum", "Cast", "If", "Erf"]
    assert [o.nodes for o in operators if o.kind == "If"] == [("choice",)]


@pytest.mark.parametrize("technique", ["float32", "static-int8"])
def test_the_original_names_survive_quantisation(technique: str, tmp_path: Path) -> None:
    """So that a layer's time in float32 and in int8 can be compared."""
    reference = reference_model("digits")
    nodes = need("onnx").load(str(_graph(reference, technique, tmp_path / "graph").path)).graph.node
    original = need("onnx").load(str(reference.graph.path)).graph.node
    assert {n.name for n in original if n.op_type in HEAVY} <= {n.name for n in nodes}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "eager"])
def test_the_times_add_up_to_about_a_call(name: str, tmp_path: Path) -> None:
    reference = reference_model("digits")
    operators, call = _times(name, reference.on(get(Runtime, name).floor), reference, tmp_path / "program")
    total = sum(operator.seconds for operator in operators)
    assert 0.02 * call < total < 20 * call  # a busy machine and the profiler itself blur it
    starts = [operator.start_seconds for operator in operators]
    assert starts[0] == 0
    assert starts == sorted(starts)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "eager"])
def test_kinds_are_onnx_words_where_there_is_one(name: str, tmp_path: Path) -> None:
    reference = reference_model("digits")
    operators, _ = _times(name, reference.on(get(Runtime, name).floor), reference, tmp_path / "program")
    kinds = Counter(operator.kind for operator in operators)
    assert (kinds["Conv"], kinds["Gemm"]) == (2, 1)


def test_ceilings_are_positive_and_survive_json() -> None:
    ceilings = measure_ceilings([get(Runtime, "onnxruntime")()], TARGET)
    assert Ceilings.from_json(ceilings.to_json()) == ceilings
    assert ceilings.bytes_per_second > 0
    assert ceilings.float32_per_second > 0
    assert ceilings.int8_per_second is not None
    assert set(ceilings.int8_ratio["onnxruntime"]) == set(KINDS)
    assert all(ratio > 0 for ratio in ceilings.int8_ratio["onnxruntime"].values())


def test_a_runtime_that_fails_leaves_its_reason_and_the_rest() -> None:
    ceilings = measure_ceilings([get(Runtime, "eager")()], TARGET)  # it cannot read a graph
    assert set(ceilings.problems) == {"eager"}
    assert (ceilings.int8_per_second, ceilings.int8_ratio) == (None, {})
    assert ceilings.float32_per_second > 0


def test_the_workshop_keeps_what_it_measured(tmp_path: Path) -> None:
    reference, store = reference_model("digits"), Store(tmp_path)
    splits = make_splits(as_parts(reference.inputs), seed=0)
    workload = Workload(name="digits", original=reference.module, splits=splits, preprocess=None, labels=None, output="logits")
    shop = Workshop(store, Study(60.0, Observer()), workload, TARGET, 0)
    trial = Trial(candidate=reference.graph, runtime=get(Runtime, "onnxruntime")())
    first = shop.operator_times(trial)
    assert first
    assert shop.operator_times(trial) == first
    assert shop.operator_times(Trial(candidate=reference.graph, runtime=get(Runtime, "null")())) is None
    ceilings = shop.ceilings([get(Runtime, "onnxruntime")(), get(Runtime, "eager")(), get(Runtime, "null")()])
    assert set(ceilings.int8_ratio) == {"onnxruntime"}
    assert shop.ceilings([get(Runtime, "onnxruntime")()]) == ceilings
    finished = Counter(line["kind"] for line in store.journal() if line["event"] == "finish")
    assert (finished["operators"], finished["ceilings"]) == (2, 1)


def test_what_was_timed_on_shared_cores_is_told_once_and_what_was_not_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("torch", why="to train")
    reference, runtime = reference_model("digits"), get(Runtime, "onnxruntime")()
    rest, train = ({name: rows[at] for name, rows in reference.inputs.items()} for at in (slice(0, 50), slice(50, None)))
    splits = make_splits(as_parts(rest) | {"train": as_parts(train)["all"]}, seed=0)
    workload = Workload(name="digits", original=reference.module, splits=splits, preprocess=None, labels=None, output="logits")
    for slowdown, told in ((1.05, []), (2.0, ["pace of training", "table of widths"])):
        monkeypatch.setattr("hasten.measure.cores.settled", lambda threads, patience, slowdown=slowdown: slowdown)
        study = Study(60.0, Observer())
        study.decide("looking", "to see what is told")
        shop = Workshop(Store(tmp_path / str(slowdown)), study, workload, TARGET, 0)
        for _ in range(2):
            assert shop.pace().seconds > 0
            shop.widths(runtime)
        learnt = study.decisions[-1].learnt
        assert [what for what in ("pace of training", "table of widths") if f"the {what} was timed while" in learnt] == told
        assert learnt.count("shared") == len(told)
