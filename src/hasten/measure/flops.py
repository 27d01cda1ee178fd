"""Counts what an ONNX graph computes and holds, from its shapes. Nothing is run.

A multiply-add is two operations; biases of convolutions and matrix products are not counted (as torch.utils.flop_counter
does it); elementwise operators cost one operation for each element of the output, pools one for each element of each
window, reductions one for each element of the input. Moving, casting and (de)quantising is free, so that a quantised graph
counts as its original.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import ModelError
from ..core.need import need

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FREE = _words(
    "Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace DequantizeLinear Dropout DynamicQuantizeLinear "
    "Expand EyeLike Flatten Gather GatherElements GatherND Identity MaxUnpool NonZero OneHot Pad QuantizeLinear RandomNormal "
    "Range Reshape Resize ReverseSequence ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze Tile "
    "Transpose Trilu Unsqueeze Upsample Unique"
)
_ELEMENTWISE = _words(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BatchNormalization BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu "
    "Clip Cos Cosh CumSum Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish "
    "Hardmax InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization "
    "LRN Max Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pow "
    "Reciprocal Relu RMSNormalization Round Selu Sigmoid Sign Sin Sinh SkipLayerNormalization Softmax Softplus "
    "Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
)
_REDUCING = _words(
    "ArgMax ArgMin GlobalAveragePool GlobalMaxPool ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK"
)
_DOMAINS = ("", "ai.onnx", "com.microsoft")  # elsewhere a Conv may stand for a padded, blocked one
_POOLS = _words("AveragePool LpPool MaxPool")
# Operator -> where its input and its weight stand.
_CONVOLUTIONS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "DynamicQuantizeMatMul": (0, 1), "FusedMatMul": (0, 1)}
_RECURRENT = _words("DynamicQuantizeLSTM GRU LSTM RNN")
# ONNX Runtime's own operators -> what they compute, and where the data stand: shape inference knows the standard ones only.
_STANDARD: dict[str, tuple[str, tuple[int, ...]]] = {
    "FusedConv": ("Conv", (0, 1)),
    "FusedGemm": ("Gemm", (0, 1)),
    "QGemm": ("Gemm", (0, 3)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearLeakyRelu": ("LeakyRelu", (0,)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Sigmoid", (0,)),
    "QLinearSoftmax": ("Softmax", (0,)),
}
# Inputs that hold scales and zero points: no parameters of the model.
_SCALES = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "DynamicQuantizeMatMul": (2, 3),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
}
_INT32_PARAMETERS = {"DequantizeLinear": 0, "QLinearConv": 8, "QGemm": 6}  # where a quantised bias stands


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one graph costs.

    flops: operations of one call, or None where something could not be counted (`problem` says what, in one sentence);
    parameters: numbers that were learnt, scalars, indices, scales and zero points aside; weights_bytes: bytes of all constants as they
    are stored; operators: how many nodes of each operator.
    """

    flops: int | None
    parameters: int
    weights_bytes: int
    operators: dict[str, int]
    problem: str = ""


def count(path: Path, batch: int = 1, *, shapes: Mapping[str, Shape] | None = None) -> Counts:
    """Counts the ONNX file at `path` with its free batch axis set to `batch`. Raises ModelError, MissingExtra.

    shapes: by input name, the shape of one sample (without the batch), where other axes are free too.
    """
    onnx = need("onnx", why="to count operations")
    model = read_model(path)
    constants = dict(constants_of(model.graph))
    parameters, weights_bytes = _weights(model.graph, constants)
    operators = dict(sorted(Counter(node.op_type for node in _nodes(model.graph)).items()))
    try:
        inferred = with_shapes(model, batch, shapes or {})
    except onnx.shape_inference.InferenceError as error:
        flops, problem = None, f"The shapes contradict each other: {error}."
    else:
        flops, problem = _flops(inferred, constants)
    return Counts(flops=flops, parameters=parameters, weights_bytes=weights_bytes, operators=operators, problem=" ".join(problem.split()))


def read_model(path: Path) -> onnx.ModelProto:
    """The ONNX file at `path` without weights that lie beside it, its functions inlined. Raises ModelError, MissingExtra."""
    onnx = need("onnx", why="to count operations")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, need("google.protobuf.message").DecodeError) as error:
        raise ModelError(f"model {path.name}", f"must be an ONNX file ({error})") from None
    if model.functions:
        model = need("onnx.inliner").inline_local_functions(model)
    return model  # type: ignore[no-any-return]


def with_shapes(model: onnx.ModelProto, batch: int, shapes: Mapping[str, Shape]) -> onnx.GraphProto:
    """Its graph in standard operators, with every shape that can be known. Changes `model`; raises onnx's InferenceError."""
    _set_shapes(model.graph, batch, shapes)
    _standardise(model.graph)
    graph: onnx.GraphProto = need("onnx").shape_inference.infer_shapes(model, data_prop=True).graph
    return graph


def _set_shapes(graph: onnx.GraphProto, batch: int, shapes: Mapping[str, Shape]) -> None:
    """Set the free axes that are known, and all axes of the inputs that bear their names; forget what was inferred before."""
    held = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value.type.tensor_type.shape.dim for value in graph.input if value.name not in held}
    known: dict[str, int] = {}
    for name, dims in inputs.items():
        for dim, size in zip(dims, (batch, *shapes.get(name, ())), strict=False):
            if not dim.HasField("dim_value"):
                known |= {dim.dim_param: size} if dim.dim_param else {}
                dim.dim_value = size
    for dim in (dim for dims in inputs.values() for dim in dims if dim.dim_param in known):
        dim.dim_value = known[dim.dim_param]
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _standardise(graph: onnx.GraphProto) -> None:
    """Name ONNX Runtime's own operators by what they compute, where the layout is the standard one."""
    for node in graph.node:
        if node.domain == "com.microsoft" and node.op_type in _STANDARD and not _attribute(node, "channels_last", 0):
            node.op_type, places = _STANDARD[node.op_type]
            data = [node.input[place] for place in places]
            del node.input[:]
            node.input.extend(data)
            node.domain = ""


def _flops(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> tuple[int | None, str]:
    shapes, total = known_shapes(graph, constants), 0
    for node in graph.node:
        cost, problem = node_flops(node, shapes)
        if cost is None:
            return None, problem
        total += cost
    return total, ""


def known_shapes(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> dict[str, Shape]:
    """The shapes of all tensors that have a full one."""
    shapes: dict[str, Shape] = {name: tuple(tensor.dims) for name, tensor in constants.items()}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes.setdefault(value.name, tuple(dim.dim_value for dim in tensor.shape.dim))
    return shapes


def node_flops(node: onnx.NodeProto, shapes: dict[str, Shape]) -> tuple[int | None, str]:
    """What one node computes, or None and why that cannot be counted."""
    if node.op_type in _FREE:
        return 0, ""
    cost = _COSTS.get(node.op_type)
    if cost is None or node.domain not in _DOMAINS:
        return None, f"The operator {node.op_type} is not one that can be counted."
    try:
        return cost(node, shapes), ""
    except KeyError as missing:
        return None, f"The shape of {missing.args[0]!r} at the operator {node.op_type} is not known before it runs."


def _convolution(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    weight = shapes[node.input[_CONVOLUTIONS[node.op_type][1]]]
    return 2 * math.prod(shapes[node.output[0]]) * math.prod(weight[1:])


def _transposed_convolution(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    return 2 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    left, right = (shapes[node.input[place]] for place in _PRODUCTS[node.op_type])
    *_, rows, inner = (1, *left)
    columns = 1 if len(right) == 1 else right[-2 if _attribute(node, "transB", 0) else -1]
    if _attribute(node, "transA", 0):
        rows, inner = inner, rows
    return 2 * math.prod(_broadcast(left[:-2], right[:-2])) * rows * inner * columns


def _gemm(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    left, right = (shapes[node.input[place]] for place in (0, 1))
    columns = right[0] if _attribute(node, "transB", 0) else right[1]
    return 2 * math.prod(left) * columns


def _recurrent(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    data, weight, recurrence = (shapes[name] for name in node.input[:3])
    return 2 * data[0] * data[1] * (math.prod(weight) + math.prod(recurrence))


def _einsum(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    terms: list[str] = _attribute(node, "equation", b"").decode().replace(" ", "").split("->")[0].split(",")
    if len(terms) != 2 or any("." in term for term in terms):
        raise KeyError(node.output[0])
    sizes = {letter: size for term, name in zip(terms, node.input, strict=True) for letter, size in zip(term, shapes[name], strict=True)}
    return 2 * math.prod(sizes.values())


def _elementwise(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    return math.prod(shapes[node.output[0]])


def _reduction(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    return math.prod(shapes[node.input[0]])


def _pool(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    window: Shape = tuple(_attribute(node, "kernel_shape", ()))
    return math.prod(shapes[node.output[0]]) * math.prod(window)


_COSTS: dict[str, Callable[[Any, dict[str, Shape]], int]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCING, _reduction),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_PRODUCTS, _product),
    "Gemm": _gemm,
    **dict.fromkeys(_RECURRENT, _recurrent),
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
}


def _broadcast(left: Shape, right: Shape) -> Shape:
    length = max(len(left), len(right))
    pairs = zip((1,) * (length - len(left)) + left, (1,) * (length - len(right)) + right, strict=True)
    return tuple(b if a == 1 else a for a, b in pairs)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    helper = need("onnx.helper")
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def constants_of(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers and the tensors of Constant nodes, by name."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], a.t) for a in node.attribute if a.name == "value")


def _weights(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> tuple[int, int]:
    """The numbers of parameters and of bytes."""
    types = need("onnx").TensorProto
    half = {types.INT4, types.UINT4, types.FLOAT4E2M1}
    indices = {types.INT64, types.INT16, types.UINT16, types.UINT32, types.UINT64, types.BOOL, types.STRING}
    scales, biases = set(), set()
    for node in _nodes(graph):
        scales |= {node.input[i] for i in _SCALES.get(node.op_type, ()) if i < len(node.input)}
        place = _INT32_PARAMETERS.get(node.op_type, len(node.input))
        biases |= set(node.input[place : place + 1])
    parameters = stored = 0
    for name, tensor in constants.items():
        size, kind = math.prod(tensor.dims), tensor.data_type
        stored += (size + 1) // 2 if kind in half else size * itemsize(kind)
        if tensor.dims and name not in scales and kind not in indices and (kind != types.INT32 or name in biases):
            parameters += size
    return parameters, stored


def itemsize(kind: int) -> int:
    """Bytes of one element of an ONNX type."""
    return int(need("onnx.helper").tensor_dtype_to_np_dtype(kind).itemsize)
