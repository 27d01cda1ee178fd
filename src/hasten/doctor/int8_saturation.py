"""Does an integer product of full-range values come out right here?"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..core.machine import this_machine
from ..core.need import has, need
from ..core.seams import Check, Finding, Target

_FACT = frozenset({"u8s8-saturates"})
_DEPTH = 64


class Int8Saturation(Check):
    """uint8 x int8 with the largest values, in ONNX Runtime, against exact integers.

    x86 before VNNI adds two products in 16 bits (vpmaddubsw): 255 * 127 * 2 does not fit and is cut off, silently.
    """

    name: ClassVar[str] = "int8-saturation"

    def ask(self, target: Target) -> Finding:
        if not (has("onnx") and has("onnxruntime")):
            return _from_flags()
        wrong = [name for name, right in (("Conv", _conv_is_right()), ("MatMul", _matmul_is_right())) if not right]
        if wrong:
            sentence = f"int8 {' and '.join(wrong)} saturate at full range here: weights get 7 bits instead of 8."
            return Finding(sentence=sentence, facts=_FACT)
        return Finding(sentence="int8 products are exact at full range here: weights may use all 8 bits.")


def _from_flags() -> Finding:
    machine = this_machine()
    if machine.arch in ("x86_64", "AMD64") and not {"avx512_vnni", "avx_vnni"} & set(machine.flags):
        return Finding(sentence="int8 products were not tried (onnx is not installed); x86 without VNNI saturates.", facts=_FACT)
    return Finding(sentence="int8 products were not tried (onnx is not installed); this processor has exact ones.")


def _conv_is_right() -> bool:
    """A quantised convolution: all activations 255, all weights 127."""
    x = np.full((1, _DEPTH, 4, 4), 255, np.uint8)
    weight = np.full((16, _DEPTH, 3, 3), 127, np.int8)
    exact = _DEPTH * 9 * 255 * 127  # at the middle of the picture
    scale = np.float32(exact / 200)  # the exact sum is 200 steps of the output
    scalars = {"sx": np.float32(1), "zx": np.uint8(0), "sw": np.float32(1), "zw": np.int8(0), "sy": scale, "zy": np.uint8(0)}
    got = _run("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"], x, {"w": weight, **scalars}, pads=[1, 1, 1, 1])
    return bool(abs(int(got[0, 0, 1, 1]) - 200) <= 1)


def _matmul_is_right() -> bool:
    """An integer matrix product: all activations 255, all weights 127."""
    x = np.full((4, _DEPTH), 255, np.uint8)
    got = _run("MatMulInteger", ["x", "w"], x, {"w": np.full((_DEPTH, 16), 127, np.int8)})
    return bool((got == _DEPTH * 255 * 127).all())


def _run(operator: str, names: list[str], x: np.ndarray, constants: dict[str, Any], **attributes: Any) -> np.ndarray:
    onnx, ort = need("onnx"), need("onnxruntime")
    out = onnx.TensorProto.INT32 if operator == "MatMulInteger" else onnx.TensorProto.UINT8
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, names, ["y"], **attributes)],
        "probe",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, x.shape)],
        [onnx.helper.make_tensor_value_info("y", out, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result
