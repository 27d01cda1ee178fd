"""Operations and parameters are counted as by hand and as torch counts them, and what is not known is said to be so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hasten.core.errors import ModelError
from hasten.measure.flops import Counts, count

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")
FLOAT = 1


def value(name: str, *shape: int | str, kind: int = FLOAT) -> object:
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, *shape: int, dtype: str = "float32") -> object:
    return onnx.numpy_helper.from_array(np.ones(shape, dtype=dtype), name)


def save(path: Path, nodes: list[object], inputs: list[object], outputs: list[object], held: list[object]) -> Path:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, held), opset_imports=opsets), str(path))
    return path


def small_net(path: Path, *, quantised: bool = False) -> Path:
    """Conv 3 -> 8 (3x3, same) on 10x10, Relu, global mean, Gemm 8 -> 5 with bias, Softmax."""
    conv_weight, nodes, held = "w", [], [tensor("w", 8, 3, 3, 3), tensor("wb", 8), tensor("v", 5, 8), tensor("vb", 5)]
    data = "x"
    if quantised:
        held[0] = tensor("w8", 8, 3, 3, 3, dtype="int8")
        held += [tensor("s", 8), tensor("z", 8, dtype="int8"), tensor("sx"), tensor("zx", dtype="uint8")]
        nodes += [
            helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["w"], axis=0),
            helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        ]
        data = "xd"
    nodes += [
        helper.make_node("Conv", [data, conv_weight, "wb"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "v", "vb"], ["e"], transB=1),
        helper.make_node("Softmax", ["e"], ["y"]),
    ]
    return save(path, nodes, [value("x", "N", 3, 10, 10)], [value("y", "N", 5)], held)


CONV, RELU, POOL, GEMM, SOFTMAX = 2 * 8 * 100 * 27, 8 * 100, 8 * 100, 2 * 8 * 5, 5


@pytest.mark.parametrize("batch", [1, 4])
def test_a_small_net_is_counted_as_by_hand(tmp_path: Path, batch: int) -> None:
    assert count(small_net(tmp_path / "m.onnx"), batch) == Counts(
        flops=batch * (CONV + RELU + POOL + GEMM + SOFTMAX),
        parameters=8 * 27 + 8 + 40 + 5,
        weights_bytes=4 * (8 * 27 + 8 + 40 + 5),
        operators={"Conv": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 1, "Softmax": 1},
    )


def test_a_quantised_graph_counts_as_its_original_but_is_smaller(tmp_path: Path) -> None:
    plain, quantised = count(small_net(tmp_path / "a.onnx"), 2), count(small_net(tmp_path / "b.onnx", quantised=True), 2)
    assert (quantised.flops, quantised.parameters) == (plain.flops, plain.parameters)
    scales = 4 * 8 + 8 + 4 + 1
    assert quantised.weights_bytes == 8 * 27 + 4 * (8 + 40 + 5) + scales
    assert quantised.operators["DequantizeLinear"] == 2


def one(path: Path, node: object, inputs: list[object], held: list[object], *, kind: int = FLOAT) -> Counts:
    return count(save(path, [node], inputs, [helper.make_tensor_value_info("y", kind, None)], held), 2)


def test_products_and_recurrences_are_counted_as_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    node = helper.make_node
    assert one(path, node("MatMul", ["x", "w"], ["y"]), [value("x", "N", 7, 6)], [tensor("w", 6, 5)]).flops == 2 * 2 * 7 * 6 * 5
    both = [value("x", "N", 4, 7, 6), value("w", "N", 1, 6, 5)]
    assert one(path, node("MatMul", ["x", "w"], ["y"]), both, []).flops == 2 * 2 * 4 * 7 * 6 * 5
    up = node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    assert one(path, up, [value("x", "N", 6, 5, 5)], [tensor("w", 6, 4, 2, 2)]).flops == 2 * 2 * 6 * 25 * 4 * 4
    grouped = node("Conv", ["x", "w"], ["y"], group=6)
    assert one(path, grouped, [value("x", "N", 6, 5, 5)], [tensor("w", 6, 1, 3, 3)]).flops == 2 * 2 * 6 * 9 * 9
    lstm = node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3)
    lstm_inputs = [value("x", 9, 2, 4)]
    assert one(path, lstm, lstm_inputs, [tensor("w", 1, 12, 4), tensor("r", 1, 12, 3)]).flops == 2 * 9 * 2 * 12 * 7
    einsum = node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik")
    assert one(path, einsum, [value("x", "N", 7, 6)], [tensor("w", 6, 5)]).flops == 2 * 2 * 7 * 6 * 5


def test_integer_products_are_counted_as_their_originals(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    uint8 = 2
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    got = one(path, node, [value("x", "N", 6, kind=uint8)], [tensor("w", 6, 5, dtype="uint8")], kind=6)
    assert (got.flops, got.parameters) == (2 * 2 * 6 * 5, 30)
    scale = [tensor("s"), tensor("z", dtype="uint8"), tensor("b", 4, dtype="int32")]
    node = helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z", "b"], ["y"])
    got = one(path, node, [value("x", "N", 3, 5, 5, kind=uint8)], [tensor("w", 4, 3, 3, 3, dtype="uint8"), *scale], kind=uint8)
    assert (got.flops, got.parameters) == (2 * 2 * 4 * 9 * 27, 4 * 27 + 4)


def test_onnx_runtimes_own_operators_count_as_what_they_compute(tmp_path: Path) -> None:
    path, own = tmp_path / "m.onnx", {"domain": "com.microsoft"}
    fused = helper.make_node("FusedConv", ["x", "w"], ["y"], activation="Relu", **own)
    assert one(path, fused, [value("x", "N", 3, 5, 5)], [tensor("w", 4, 3, 3, 3)]).flops == 2 * 2 * 4 * 9 * 27
    scale = [tensor("s"), tensor("z", dtype="uint8")]
    added = helper.make_node("QLinearAdd", ["x", "s", "z", "b", "s", "z", "s", "z"], ["y"], **own)
    got = one(path, added, [value("x", "N", 3, kind=2)], [tensor("b", 3, dtype="uint8"), *scale], kind=2)
    assert (got.flops, got.operators) == (2 * 3, {"QLinearAdd": 1})
    blocked = helper.make_node("Conv", ["x", "w"], ["y"], domain="com.microsoft.nchwc")
    assert one(path, blocked, [value("x", "N", 8, 5, 5)], [tensor("w", 8, 8, 3, 3)]).flops is None


def test_what_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    free = one(path, helper.make_node("MatMul", ["x", "w"], ["y"]), [value("x", "N", "length", 6)], [tensor("w", 6, 5)])
    assert free.flops is None
    assert free.parameters == 30
    assert free.problem == "The shape of 'x' at the operator MatMul is not known before it runs."
    assert count(path, 2, shapes={"x": (7, 6)}).flops == 2 * 2 * 7 * 6 * 5
    foreign = one(
        path, helper.make_node("Attention", ["x", "w"], ["y"], domain="com.microsoft", num_heads=2), [value("x", "N", 4)], [tensor("w", 4)]
    )
    assert foreign.flops is None
    assert foreign.problem == "The operator Attention is not one that can be counted."


def test_a_file_that_is_no_onnx_is_the_models_fault(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=r"model m\.onnx: must be an ONNX file"):
        count(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"model none\.onnx: must be an ONNX file"):
        count(tmp_path / "none.onnx")


def test_a_convolutional_net_counts_as_torch_counts_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from torch.utils.flop_counter import FlopCounterMode

    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(1),
        nn.Linear(4 * 12 * 12, 10),
    ).eval()
    example = torch.zeros(2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        net(example)
    path = tmp_path / "m.onnx"
    torch.onnx.export(net, (example,), str(path), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)
    got = count(path, batch=2)
    assert got.flops == counter.get_total_flops(), got.problem
    assert got.parameters == sum(p.numel() for p in net.parameters())
