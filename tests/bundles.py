"""Small real models and bundles for tests: seeded weights, ONNX, and onnxruntime found through the registry."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hasten.bundle.arrays import prepare
from hasten.bundle.write import Contents
from hasten.core import registry
from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.preprocess import ImagePreprocess
from hasten.core.samples import Samples
from hasten.core.seams import Runtime, Target
from hasten.core.signature import Signature, TensorSpec

SIDE, CLASSES = 12, 7
LABELS = tuple(f"class {k}" for k in range(CLASSES))
PREPROCESS = ImagePreprocess(resize=16, crop=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def save_classifier(path: Path, *, batch: int | None = None, softmax: bool = False, seed: int = 0) -> Signature:
    """A convolution, a ReLU, a global mean and a linear layer, in ONNX: pictures [N, 3, 12, 12] -> logits [N, 7]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "linear": rng.normal(size=(8, CLASSES)).astype(np.float32),
        "bias": rng.normal(size=CLASSES).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "linear", "bias"], ["raw" if softmax else "scores"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["raw"], ["scores"], axis=1))
    axis = "N" if batch is None else batch
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [axis, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [axis, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return Signature(
        inputs=(TensorSpec(name="pixels", dtype="float32", shape=(batch, 3, SIDE, SIDE)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(batch, CLASSES)),),
    )


def save_two_inputs(path: Path) -> Signature:
    """total = left + right (float, [N, 3]); count = ids + ids (int64, [N]); same = flags (bool, [N, 2])."""
    import onnx
    from onnx import TensorProto, helper

    def info(name: str, kind: int, *rest: int) -> Any:
        return helper.make_tensor_value_info(name, kind, ["N", *rest])

    graph = helper.make_graph(
        [
            helper.make_node("Add", ["left", "right"], ["total"]),
            helper.make_node("Add", ["ids", "ids"], ["count"]),
            helper.make_node("Identity", ["flags"], ["same"]),
        ],
        "tensors",
        [
            info("left", TensorProto.FLOAT, 3),
            info("right", TensorProto.FLOAT, 3),
            info("ids", TensorProto.INT64),
            info("flags", TensorProto.BOOL, 2),
        ],
        [info("total", TensorProto.FLOAT, 3), info("count", TensorProto.INT64), info("same", TensorProto.BOOL, 2)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)

    def spec(name: str, dtype: str, *rest: int) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=(None, *rest))

    return Signature(
        inputs=(spec("left", "float32", 3), spec("right", "float32", 3), spec("ids", "int64"), spec("flags", "bool", 2)),
        outputs=(spec("total", "float32", 3), spec("count", "int64"), spec("same", "bool", 2)),
    )


def pictures(count: int, *, seed: int = 0) -> list[bytes]:
    """Encoded pictures of several sizes and formats."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    encoded = []
    for k in range(count):
        height, width = int(rng.integers(14, 40)), int(rng.integers(14, 40))
        coarse = Image.fromarray(rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG" if k % 2 else "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def contents(folder: Path, signature: Signature, golden: Samples, *, runtime_name: str = "onnxruntime", **changes: Any) -> Contents:
    """What `write` takes for `folder/model.onnx`, compiled here and now."""
    target = Target(threads=1)
    candidate = Candidate(
        floor=Floor.GRAPH,
        path=folder / "model.onnx",
        signature=signature,
        lineage=(Step(name="toy"), Step(name="simplify")),
        facts=frozenset({"null-allowed"}),
    )
    runtime = registry.get(Runtime, runtime_name)()
    program_folder = folder / "program"
    program_folder.mkdir()
    runtime.compile(candidate, target, program_folder)
    made = Contents(
        model="toy model",
        answer=ANSWER,
        program=program_folder,
        runtime=runtime,
        target=target,
        candidate=candidate,
        portable=candidate.path if candidate.path.exists() else None,
        metric="accuracy",
        golden=golden,
        golden_tensors={},
        golden_outputs={},
        evidence=[{"kind": "run", "command": "hasten optimize"}],
        front=[{"id": "a"}],
        limits={"max_drop": 0.5},
    )
    made = replace(made, **changes)
    tensors = prepare(golden.inputs, signature, made.preprocess)
    program = runtime.load(program_folder, target)
    try:
        outputs = _run(program, signature, tensors)
    finally:
        program.close()
    return replace(made, golden_tensors=tensors, golden_outputs=outputs)


def null_contents(folder: Path, **changes: Any) -> Contents:
    """A bundle-to-be that needs no model library: zeros for two numbers each."""
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(None, 2)),), outputs=(TensorSpec(name="y", dtype="float32", shape=(None, 3)),)
    )
    golden = Samples(inputs={"x": np.ones((4, 2), np.float32)})
    return contents(folder, signature, golden, **{"runtime_name": "null", "metric": "cosine", **changes})


def picture_contents(folder: Path, **changes: Any) -> Contents:
    """A bundle-to-be of the picture classifier, with five golden pictures."""
    signature = save_classifier(folder / "model.onnx")
    golden = Samples(inputs={"": pictures(5)})
    return contents(folder, signature, golden, **{"preprocess": PREPROCESS, "labels": LABELS, **changes})


def tensor_contents(folder: Path, **changes: Any) -> Contents:
    """A bundle-to-be of the model with four inputs and three outputs, which is no classifier."""
    signature = save_two_inputs(folder / "model.onnx")
    rng = np.random.default_rng(1)
    golden = Samples(
        inputs={
            "left": rng.normal(size=(4, 3)).astype(np.float32),
            "right": rng.normal(size=(4, 3)).astype(np.float32),
            "ids": np.arange(4),
            "flags": np.array([[True, False]] * 4),
        }
    )
    return contents(folder, signature, golden, **{"metric": "cosine", **changes})


ANSWER: dict[str, Any] = {
    "verdict": "passed",
    "reason": "static-int8 on onnxruntime is 1.9x faster than the fastest lossless form and lost 0.1 points.",
    "answer": {
        "id": "abc",
        "recipe": ["simplify"],
        "runtime": "onnxruntime",
        "size_bytes": 1234567,
        "peak_memory_bytes": None,
        "latency_seconds": {"value": 0.0012, "low": 0.0011, "high": 0.0013},
    },
    "speedup": {"over_start": {"value": 8.1, "low": 8.0, "high": 8.2}, "over_lossless": {"value": 1.9, "low": None, "high": None}},
    "drop_points": {"value": 0.1, "low": -0.1, "high": 0.3, "n": 900},
    "bundle": "out",
    "report": "out/report.html",
    "account_seconds": {},
}


def _run(program: Any, signature: Signature, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from hasten.bundle.read import run_batched

    return run_batched(program, signature, tensors)
