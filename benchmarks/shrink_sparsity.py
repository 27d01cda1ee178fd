"""Where zeros among the weights gain anything: time in every runtime that is installed, and bytes that ship.

    make bench-shrink-sparsity

Two graphs (four linear layers of 2,048 neurons, and ResNet-20 where $HASTEN_DATA is set), each with no zeros, 90 % zeros anywhere, and
two zeros in each four inputs (2:4), in float32 and in 8 bits; zeros are by magnitude and nothing is trained, since a program's time does
not depend on how right it is. All programs of a graph take turns in one process, so that a slow minute hits all alike: speed is over the
same program without zeros, with a 95 % interval over rounds. OpenVINO runs once more with its rate for sparse weights set, which
its kernels use where the processor has AMX.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from common import BUNDLES, Figures, figure, finish, workshop

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.registry import get
from hasten.core.seams import Context, Runtime, Target, Technique
from hasten.core.signature import Signature, TensorSpec
from hasten.measure.statistics import ratio_interval

NAME = "shrink-sparsity"
ZEROS = ("none", "anywhere", "2:4")
TARGET = Target(threads=1)
RATE = {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": "0.8", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
SMALL_BYTES = 5_000_000
Call = Callable[[], object]


def wide(folder: Path, *, width: int = 2048, depth: int = 4) -> tuple[Candidate, Context]:
    """Linear layers whose weights do not fit a cache: where reading fewer bytes would pay most."""
    rng, node, kind = np.random.default_rng(0), onnx.helper.make_node, onnx.TensorProto.FLOAT
    values = [onnx.numpy_helper.from_array(rng.standard_normal((width, width), np.float32) / width**0.5, f"w{i}") for i in range(depth)]
    nodes = [node("MatMul", [f"x{i}", f"w{i}"], [f"m{i}"], name=f"m{i}") for i in range(depth)]
    nodes += [node("Relu", [f"m{i}"], [f"x{i + 1}"], name=f"r{i}") for i in range(depth)]
    nodes.sort(key=lambda n: (n.name[1:], n.name[0]))
    ends = [onnx.helper.make_tensor_value_info(name, kind, ["n", width]) for name in ("x0", f"x{depth}")]
    graph = onnx.helper.make_graph(nodes, "wide", ends[:1], ends[1:], values)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(folder / "wide.onnx"))
    np.save(folder / "x.npy", rng.standard_normal((32, width), np.float32))
    specs = [TensorSpec(name=end.name, dtype="float32", shape=(None, width)) for end in ends]
    signature = Signature(inputs=(specs[0],), outputs=(specs[1],))
    candidate = Candidate(floor=Floor.GRAPH, path=folder / "wide.onnx", signature=signature, lineage=(Step(name="wide"),))
    return candidate, Context(folder=folder, calibration={"x0": folder / "x.npy"})


def resnet20(folder: Path) -> tuple[Candidate, Context]:
    with workshop("examples/cifar10/resnet20.toml", store=BUNDLES / "stores" / "shrink-resnet20", seconds=3600.0) as (shop, _):
        candidate = shop.workload.original
        for name in ("export-onnx", "simplify"):
            candidate = shop.apply(get(Technique, name)(), candidate)
        return candidate, Context(folder=folder, calibration=shop.tensors("calibrate"))


def with_zeros(candidate: Candidate, how: str, folder: Path) -> Candidate:
    """The graph with the smallest weights of its convolutions and matrix products at zero."""
    model = onnx.load(str(candidate.path))
    read = {node.input[1]: node.op_type for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")}
    for tensor in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name in read and weights.size >= 1024:
            axis = 0 if read[tensor.name] == "MatMul" else 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(_zeroed(weights, how, axis), tensor.name))
    path = folder / f"{how.replace(':', '')}.onnx"
    onnx.save(model, str(path))
    return replace(candidate, path=path, lineage=(*candidate.lineage, Step(name="zeros", options={"how": how})))


def _zeroed(weights: np.ndarray, how: str, axis: int) -> np.ndarray:
    """axis: of the inputs, which groups of four lie along."""
    if how == "anywhere":
        weights[np.abs(weights) < np.quantile(np.abs(weights), 0.9)] = 0
    elif how == "2:4" and weights.shape[axis] % 4 == 0:
        moved = np.moveaxis(weights, axis, -1)
        groups = moved.reshape(*moved.shape[:-1], -1, 4).copy()
        np.put_along_axis(groups, np.abs(groups).argsort(-1)[..., :2], 0, -1)
        weights = np.ascontiguousarray(np.moveaxis(groups.reshape(moved.shape), -1, axis))
    return weights


def programs(candidate: Candidate, sample: dict[str, np.ndarray], folder: Path) -> Iterator[tuple[str, Call, int]]:
    """Name, one call, and packed bytes of the candidate in each runtime; 0 where packing would take long and teach nothing."""
    for name in ("onnxruntime", "openvino"):
        place, small = Path(tempfile.mkdtemp(dir=folder)), candidate.path.stat().st_size < SMALL_BYTES
        kind: Any = get(Runtime, name)
        kind(threads=1, packed=small).compile(candidate, TARGET, place)
        program = kind(threads=1).load(place, TARGET)
        size = sum(file.stat().st_size for file in place.iterdir())
        yield name, lambda program=program: program.run(sample), size if small else 0
    core = openvino.Core()
    model = core.read_model(candidate.path)
    model.reshape({port: [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    request = core.compile_model(model, "CPU", RATE).create_infer_request()
    yield "openvino-sparse-rate", lambda: request.infer(sample, share_inputs=True), 0


def rounds(calls: dict[str, Call], seconds: float) -> dict[str, np.ndarray]:
    """Seconds of a call by round: all take turns, in another order each round."""
    for call in calls.values():
        for _ in range(5):
            call()
    rng, found, ends = np.random.default_rng(0), {name: [] for name in calls}, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for name in rng.permutation(list(calls)):
            times = []
            for _ in range(10):
                began = time.perf_counter()
                calls[name]()
                times.append(time.perf_counter() - began)
            found[name].append(float(np.median(times)))
    return {name: np.array(times) for name, times in found.items()}


def measure(candidate: Candidate, context: Context, seconds: float) -> Figures:
    """All figures of one graph."""
    sample = {name: np.ascontiguousarray(values[:1]) for name, values in context.calibration_arrays().items()}
    calls: dict[str, Call] = {}
    sizes: dict[str, int] = {}
    for how in ZEROS:
        sparse = with_zeros(candidate, how, context.folder)
        folder = Path(tempfile.mkdtemp(dir=context.folder))
        rounded = get(Technique, "static-int8")(num_samples=32).apply(sparse, replace(context, folder=folder))  # type: ignore[call-arg]
        for bits, one in (("float32", sparse), ("int8", rounded)):
            for name, call, size in programs(one, sample, context.folder):
                calls[f"{bits}.{name}.{how}"], sizes[f"{bits}.{name}.{how}"] = call, size
    times = rounds(calls, seconds)
    figures: Figures = {}
    for key in calls:
        plain = f"{key.rpartition('.')[0]}.none"
        if key != plain:
            figures[f"{key}.speed_over_dense"] = figure(ratio_interval(times[plain], times[key]))
            if sizes[key]:
                figures[f"{key}.packed_size_over_dense"] = figure(sizes[key] / sizes[plain])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="what zeros among weights gain")
    parser.add_argument("--seconds", type=float, default=40.0, help="of timing, for each graph (default: %(default)s)")
    arguments = parser.parse_args()
    figures: Figures = {}
    cases = {"wide": wide} | ({"resnet20": resnet20} if "HASTEN_DATA" in os.environ else {})
    for name, make in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            candidate, context = make(Path(folder))
            figures |= {f"{name}.{key}": one for key, one in measure(candidate, context, arguments.seconds).items()}
    finish(NAME, figures)


if __name__ == "__main__":
    main()
