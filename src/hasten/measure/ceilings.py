"""What this machine can do at most, measured in a few seconds: memory, arithmetic, and what 8 bits are worth in each runtime.

Small graphs are built in float32 and as QDQ (uint8 activations, int8 weights for each output channel), each a chain of equal
layers so that entering and leaving 8 bits counts little, and timed in turn, the two of a pair side by side.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.candidate import Candidate, Floor, Step
from ..core.errors import HastenError
from ..core.need import need
from ..core.seams import Runtime, Target
from ..core.signature import Signature, TensorSpec
from .worker import State, Worker

_COPIED_BYTES = 1 << 27  # for each side of the copy: beyond every cache
_SIDE = 768  # of the square matrices that BLAS multiplies
_LAYERS = 4
_ROUNDS = 24
_SLICE_SECONDS = 0.003
_RUNTIME_SECONDS = 1.2  # no new round after it
_SCALE = 1 / 64


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What this machine can do at most with `threads` threads.

    bytes_per_second: of memory, read and written, in a large copy; float32_per_second, int8_per_second: operations (a multiply-add
    is two) of the best kernel that was found, the latter None where nothing could be measured; int8_ratio: by runtime and
    kind (`KINDS`) the time of a layer in int8 over its time in float32: below 1 int8 is faster; problems: by runtime, why
    it has no ratio.
    """

    threads: int
    bytes_per_second: float
    float32_per_second: float
    int8_per_second: float | None
    int8_ratio: Mapping[str, Mapping[str, float]]
    problems: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "int8_ratio": {name: dict(ratios) for name, ratios in self.int8_ratio.items()},
            "problems": dict(self.problems),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ceilings:
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A layer of a micro-graph. x: shape of the input; weight: of the weight; operations: of one layer."""

    kind: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    operations: int
    group: int = 1


def _convolution(kind: str, channels: int, size: int, kernel: int, group: int = 1) -> _Layer:
    weight = (channels, channels // group, kernel, kernel)
    return _Layer(
        kind=kind, x=(1, channels, size, size), weight=weight, group=group, operations=2 * size * size * channels * math.prod(weight[1:])
    )


_MICRO = (
    _convolution("Conv", 64, 28, 3),
    _convolution("Conv 1x1", 128, 14, 1),
    _convolution("Conv depthwise", 128, 28, 3, group=128),
    _Layer(kind="MatMul", x=(1, 128, 384), weight=(384, 384), operations=2 * 128 * 384 * 384),
)
KINDS = tuple(layer.kind for layer in _MICRO)
"""Kinds of layers that have a ratio: `Conv` (3x3, larger), `Conv 1x1`, `Conv depthwise` (a group for each channel), `MatMul` (Gemm too)."""


def measure_ceilings(runtimes: Sequence[Runtime], target: Target) -> Ceilings:
    """Ask the machine, in child processes. runtimes: for graphs, and such that fit here. Raises WorkerError, MissingExtra."""
    target = replace(target, batch_size=1)
    with Worker("ceilings", threads=target.threads) as worker:
        bandwidth, float32 = worker.call(_machine, target.threads)
    int8, ratios, problems = 0.0, {}, {}
    for runtime in runtimes:
        name = runtime.step().text
        try:
            with Worker(f"ceilings {name}", threads=runtime.num_threads(target)) as worker:
                speeds, ratios[name] = worker.call(_runtime, runtime, target)
        except HastenError as error:  # one runtime that fails on a graph must not hide the others
            problems[name] = str(error)
            continue
        float32, int8 = max(float32, speeds[0]), max(int8, speeds[1])
    return Ceilings(
        threads=target.threads, bytes_per_second=bandwidth, float32_per_second=float32, int8_per_second=int8 or None,
        int8_ratio=ratios, problems=problems,
    )  # fmt: skip


def _machine(state: State, threads: int) -> tuple[float, float]:
    """Bytes a second of a copy that all threads share, and operations a second of BLAS."""
    source, target = np.ones(_COPIED_BYTES // 4, np.float32), np.zeros(_COPIED_BYTES // 4, np.float32)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        copying = _best(lambda: list(pool.map(lambda part: np.copyto(*part), parts)), 0.4)
    left = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), np.float32)
    out = np.empty_like(left)
    multiplying = _best(lambda: np.matmul(left, left, out=out), 0.4)
    return 2 * _COPIED_BYTES / copying, 2 * _SIDE**3 / multiplying


def _best(work: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of the runs within `seconds`, at least three after one that is not counted."""
    work()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _runtime(state: State, runtime: Runtime, target: Target) -> tuple[tuple[float, float], dict[str, float]]:
    """Operations a second of the best float32 and the best int8 layer, and int8 time over float32 time by kind."""
    with tempfile.TemporaryDirectory(prefix="hasten-ceilings-") as scratch:
        pairs = {layer: _pair(runtime, layer, target, Path(scratch)) for layer in _MICRO}
        times: dict[_Layer, list[tuple[float, float]]] = {layer: [] for layer in pairs}
        began = time.perf_counter()
        for number in range(_ROUNDS):
            if number >= 3 and time.perf_counter() - began > _RUNTIME_SECONDS:
                break
            for layer, (plain, quantised) in pairs.items():
                times[layer].append((_best(plain, _SLICE_SECONDS), _best(quantised, _SLICE_SECONDS)))
    speeds = [max(_LAYERS * layer.operations / min(pair[which] for pair in found) for layer, found in times.items()) for which in (0, 1)]
    ratios = {layer.kind: float(np.median([int8 / float32 for float32, int8 in found])) for layer, found in times.items()}
    return (speeds[0], speeds[1]), ratios


def _pair(runtime: Runtime, layer: _Layer, target: Target, scratch: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """The layer's two programs, ready to be called."""
    x = np.random.default_rng(0).random(layer.x, np.float32)
    plain, quantised = (_load(runtime, layer, q, target, scratch / f"{layer.kind} {q}") for q in (False, True))
    return lambda: plain.run({"x": x}), lambda: quantised.run({"x": x})


def _load(runtime: Runtime, layer: _Layer, quantised: bool, target: Target, folder: Path) -> Any:
    onnx, (graph, program) = need("onnx", why="to measure what int8 is worth here"), (folder / "graph", folder / "program")
    graph.mkdir(parents=True)
    program.mkdir()
    onnx.save(_model(onnx, layer, quantised), str(graph / "model.onnx"))
    specs = tuple((TensorSpec(name=name, dtype="float32", shape=layer.x),) for name in ("x", "y"))
    step = Step(name="micro", options={"kind": layer.kind, "quantised": quantised})
    candidate = Candidate(
        floor=Floor.GRAPH, path=graph / "model.onnx", signature=Signature(inputs=specs[0], outputs=specs[1]), lineage=(step,)
    )
    runtime.compile(candidate, target, program)
    return runtime.load(program, target)


def _model(onnx: Any, layer: _Layer, quantised: bool) -> Any:
    """`_LAYERS` times the layer and a Relu, from `x` to `y`, both float32 [1, ...]."""
    helper = onnx.helper
    nodes, constants = _chain(onnx, layer, quantised)
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, layer.x) for name in ("x", "y"))
    graph = helper.make_graph(list(nodes), "micro", [x], [y], [onnx.numpy_helper.from_array(a, name) for name, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _chain(onnx: Any, layer: _Layer, quantised: bool) -> tuple[list[Any], dict[str, np.ndarray]]:
    make, is_conv = onnx.helper.make_node, len(layer.weight) == 4
    attributes = {"group": layer.group, "pads": [layer.weight[-1] // 2] * 4} if is_conv else {}
    axis = 0 if is_conv else 1
    constants: dict[str, np.ndarray] = {"scale": np.float32(_SCALE), "zero": np.uint8(0)}  # type: ignore[dict-item]
    nodes: list[Any] = [*_round(make, "x")] if quantised else []
    tensor = "x_dq" if quantised else "x"
    for number in range(_LAYERS):
        weight, name, last = f"w{number}", f"l{number}", number == _LAYERS - 1
        constants |= _weight(layer, number, weight, axis, quantised)
        if quantised:
            nodes.append(
                make("DequantizeLinear", [weight, f"{weight}_scale", f"{weight}_zero"], [f"{weight}_dq"], name=f"{weight}_dq", axis=axis)
            )
        nodes.append(
            make("Conv" if is_conv else "MatMul", [tensor, f"{weight}_dq" if quantised else weight], [name], name=name, **attributes)
        )
        tensor = "y" if last and not quantised else f"{name}_relu"
        nodes.append(make("Relu", [name], [tensor], name=f"{name}_relu"))
        if quantised:
            nodes += _round(make, tensor, "y" if last else "")
            tensor = f"{tensor}_dq"
    return nodes, constants


def _round(make: Callable[..., Any], tensor: str, result: str = "") -> Iterator[Any]:
    """The QDQ pair behind a tensor."""
    yield make("QuantizeLinear", [tensor, "scale", "zero"], [f"{tensor}_q"], name=f"{tensor}_q")
    yield make("DequantizeLinear", [f"{tensor}_q", "scale", "zero"], [result or f"{tensor}_dq"], name=f"{tensor}_dq")


def _weight(layer: _Layer, number: int, name: str, axis: int, quantised: bool) -> dict[str, np.ndarray]:
    """Random weights that keep the size of activations about the same (He et al. 2015), so that nothing becomes denormal."""
    rng = np.random.default_rng(number)
    fan_in = math.prod(layer.weight[1:]) if len(layer.weight) == 4 else layer.weight[0]
    values = rng.standard_normal(layer.weight).astype(np.float32) * np.float32(math.sqrt(2 / fan_in))
    if not quantised:
        return {name: values}
    channels = layer.weight[axis]
    scale = np.full(channels, np.abs(values).max() / 127, np.float32)
    return {
        name: np.round(values / scale[0]).astype(np.int8),
        f"{name}_scale": scale,
        f"{name}_zero": np.zeros(channels, np.int8),
    }
