"""What bounds a program: the arithmetic of the roofline, the bytes that an operator moves, and the sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.seams import OperatorTime
from hasten.measure.ceilings import Ceilings
from hasten.measure.node_costs import Cost, Costs
from hasten.measure.roofline import rate, verdict

# 100 operations a nanosecond in float32, 400 in int8, 10 bytes a nanosecond: the ridge lies at 10 operations a byte.
CEILINGS = Ceilings(
    threads=1,
    bytes_per_second=10e9,
    float32_per_second=100e9,
    int8_per_second=400e9,
    int8_ratio={"onnxruntime": {"Conv": 0.3}},
    problems={},
)


def _sentence(parts: list[tuple[str, float, Cost]], call: float | None = None) -> str:
    operators = [OperatorTime(name=f"{kind} {k}", kind=kind, seconds=seconds) for k, (kind, seconds, _) in enumerate(parts)]
    rated = rate(operators, [cost for *_, cost in parts], CEILINGS)
    return verdict(rated, sum(seconds for _, seconds, _ in parts) if call is None else call)


def test_reach_is_the_least_time_that_the_machine_allows_over_the_time_it_took() -> None:
    operators = [OperatorTime(name=name, kind="Conv", seconds=100e-6) for name in "abc"]
    costs = [
        Cost(flops=5_000_000, size_bytes=10_000),  # 50 us of arithmetic, 1 us of memory
        Cost(flops=1_000, size_bytes=200_000),  # 20 us of memory
        Cost(flops=5_000_000, size_bytes=10_000, int8=True),  # 12.5 us of arithmetic
    ]
    rated = rate(operators, costs, CEILINGS)
    assert [r.reach for r in rated] == pytest.approx([0.5, 0.2, 0.125])
    assert [r.bound for r in rated] == ["compute", "memory", "compute"]
    assert [r.share for r in rated] == pytest.approx([1 / 3] * 3)
    assert rated[0].intensity == 500


def test_an_operator_whose_cost_is_not_known_has_no_reach() -> None:
    (rated,) = rate([OperatorTime(name="reorder", kind="Reorder", seconds=1e-6)], [Cost(flops=None, size_bytes=None)], CEILINGS)
    assert (rated.reach, rated.bound, rated.intensity) == (None, "", None)
    assert rated.to_json()["reach"] is None


COMPUTE, MEMORY, UNKNOWN = Cost(flops=6_000_000, size_bytes=1_000), Cost(flops=1_000, size_bytes=600_000), Cost(flops=None, size_bytes=None)


@pytest.mark.parametrize(
    ("parts", "call", "sentence"),
    [
        (
            [("Conv", 100e-6, COMPUTE)] * 3 + [("Add", 100e-6, MEMORY)],
            None,
            "75 % of the time is in 3 convolutions, which reach 60 % of what this machine can do: compute-bound.",
        ),
        (
            [("MatMul", 100e-6, COMPUTE), ("Gemm", 100e-6, COMPUTE), ("Softmax", 50e-6, MEMORY)],
            None,
            "80 % of the time is in 2 matrix products, which reach 60 % of what this machine can do: compute-bound.",
        ),
        (
            [("Softmax", 100e-6, MEMORY)],
            None,
            "100 % of the time is in 1 Softmax operator, which reaches 60 % of what its memory gives: memory-bound.",
        ),
        (
            [("Add", 30e-6, MEMORY)],
            None,
            "100 % of the time is in 1 Add operator, which reaches more than main memory gives, from caches: memory-bound.",
        ),
        (
            [("Conv", 1e-3, COMPUTE)],
            None,
            "100 % of the time is in 1 convolution, which reaches 6 % of what this machine can do: "
            "bound by neither arithmetic nor memory, but by small or ill-suited work.",
        ),
        ([("Conv", 100e-6, UNKNOWN)] * 2, None, "100 % of the time is in 2 convolutions; how much faster they could be is not known."),
        (
            [("Add", 2e-6, MEMORY)] * 30 + [("Conv", 20e-6, COMPUTE)],
            None,
            "Overhead-bound: 30 operators of under 5 µs each take 75 % of the time.",
        ),
        ([("Conv", 100e-6, COMPUTE)], 400e-6, "Overhead-bound: of a call only 25 % is spent in its 1 operator."),
    ],
)
def test_one_sentence_says_what_bounds_it(parts: list[tuple[str, float, Cost]], call: float | None, sentence: str) -> None:
    assert _sentence(parts, call) == sentence


onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """x [N, 4, 8, 8] -> conv (4 -> 6, 1x1) -> relu -> Q -> DQ -> conv of int8 weights (6 -> 2, 1x1) -> y [N, 2, 8, 8]."""

    def held(name: str, *shape: int, dtype: str = "float32") -> Any:
        return onnx.numpy_helper.from_array(np.ones(shape, dtype), name)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("QuantizeLinear", ["b", "s", "z"], ["bq"], name="q"),
        helper.make_node("DequantizeLinear", ["bq", "s", "z"], ["bd"], name="dq"),
        helper.make_node("DequantizeLinear", ["v8", "s", "zi"], ["v"], name="vd"),
        helper.make_node("Conv", ["bd", "v"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 4, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["N", 2, 8, 8])],
        [held("w", 6, 4, 1, 1), held("v8", 2, 6, 1, 1, dtype="int8"), held("s"), held("z", dtype="uint8"), held("zi", dtype="int8")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(tmp_path / "g.onnx"))
    return tmp_path / "g.onnx"


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fused_operator_reads_and_writes_only_what_crosses_its_border(graph: Path, batch: int) -> None:
    costs = Costs(graph, batch, {})
    apart = costs.of(["first"])
    assert apart == Cost(flops=batch * 2 * 64 * 6 * 4, size_bytes=4 * (batch * 4 * 64 + 24 + batch * 6 * 64))
    fused = costs.of(["first", "relu", "q"])  # it writes 8 bits
    assert fused == Cost(flops=batch * (2 * 64 * 6 * 4 + 6 * 64), size_bytes=4 * (batch * 4 * 64 + 24) + batch * 6 * 64 + 5)


def test_int8_products_read_8_bits_and_are_known_as_such(graph: Path) -> None:
    cost = Costs(graph, 1, {}).of(["second"])
    assert cost == Cost(flops=2 * 64 * 2 * 6, size_bytes=6 * 64 + 12 + 4 * 2 * 64, int8=True)


def test_of_no_nodes_nothing_is_known(graph: Path) -> None:
    assert Costs(graph, 1, {}).of([]) == Cost(flops=None, size_bytes=None)


def test_a_shape_that_is_not_known_leaves_the_bytes_unknown(tmp_path: Path) -> None:
    free = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", "M"])],
        [helper.make_tensor_value_info("y", 1, ["N", "M"])],
    )
    onnx.save(helper.make_model(free), str(tmp_path / "free.onnx"))
    assert Costs(tmp_path / "free.onnx", 2, {}).of(["relu"]).size_bytes is None
    assert Costs(tmp_path / "free.onnx", 2, {"x": (5,)}).of(["relu"]) == Cost(flops=10, size_bytes=80)
