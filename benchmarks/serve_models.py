"""The models that the servers are compared on, and bundles of them: made here, or copied from what main-models made."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from common import BUNDLES

from hasten.bundle.arrays import prepare
from hasten.bundle.read import run_batched
from hasten.bundle.write import Contents, write
from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.preprocess import ImagePreprocess
from hasten.core.registry import get
from hasten.core.samples import Samples
from hasten.core.seams import Runtime, Target
from hasten.core.signature import Signature, TensorSpec

SIDE, CLASSES = 64, 10
FLOATS = 3 * SIDE * SIDE
NETS = {"tiny": (40, 1), "medium": (80, 8), "wide": (4096, 0)}
"""Channels of a first convolution that takes every 4th pixel, and 3x3 convolutions after it: about 0.06 and 1 ms on one core.
Without any, a linear layer of so many neurons takes its place: 200 MB that every call reads, however many samples it holds."""


def save_net(path: Path, channels: int, depth: int) -> Signature:
    """A small network in ONNX: pixels [N, 3, 64, 64] -> scores [N, 10]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    nodes: list[Any] = []

    def add(kind: str, *inputs: str, shape: tuple[int, ...] = (), **attributes: Any) -> str:
        """One operator after the others. shape: of its weights."""
        name = f"{kind}{len(nodes)}"
        if shape:
            weights[f"{name}.w"] = (rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)
            inputs = (*inputs, f"{name}.w")
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    if depth:
        at = add("Relu", add("Conv", "pixels", shape=(channels, 3, 4, 4), strides=[4, 4]))
        for _ in range(depth):
            at = add("Relu", add("Conv", at, shape=(channels, channels, 3, 3), pads=[1, 1, 1, 1]))
        at = add("Flatten", add("GlobalAveragePool", at))
    else:
        at = add("Relu", add("Gemm", add("Flatten", "pixels"), shape=(channels, FLOATS), transB=1))
    nodes.append(helper.make_node("Gemm", [at, "linear"], ["scores"], transB=1))
    weights["linear"] = rng.normal(size=(CLASSES, channels)).astype(np.float32) / channels**0.5
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])
    initial = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", [pixels], [scores], initial)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return Signature(
        inputs=(TensorSpec(name="pixels", dtype="float32", shape=(None, 3, SIDE, SIDE)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(None, CLASSES)),),
    )


def net(name: str, folder: Path) -> Path:
    """The bundle of a net, made anew in `folder`; `folder`.onnx is the model itself."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    model, program = folder.with_suffix(".onnx"), folder.with_suffix(".program")
    signature = save_net(model, *NETS[name])
    runtime, target = get(Runtime, "onnxruntime")(), Target(threads=1)
    candidate = Candidate(floor=Floor.GRAPH, path=model, signature=signature, lineage=(Step(name=name),))
    shutil.rmtree(program, ignore_errors=True)
    program.mkdir()
    runtime.compile(candidate, target, program)
    preprocess, golden = ImagePreprocess(resize=SIDE, crop=SIDE), Samples(inputs={"": [picture(k, 96) for k in range(4)]})
    tensors = prepare(golden.inputs, signature, preprocess)
    loaded = runtime.load(program, target)
    try:
        outputs = run_batched(loaded, signature, tensors)
    finally:
        loaded.close()
    contents = Contents(
        model=name,
        answer={"reason": "A network for the benchmark of the server."},
        program=program,
        runtime=runtime,
        target=target,
        candidate=candidate,
        portable=model,
        metric="accuracy",
        golden=golden,
        golden_tensors=tensors,
        golden_outputs=outputs,
        evidence=[],
        front=[],
        limits={},
        preprocess=preprocess,
        labels=tuple(f"class {k}" for k in range(CLASSES)),
    )
    return write(contents, folder)


def finished(name: str) -> Path | None:
    """The bundle that main-models left; None where there is none."""
    path = BUNDLES / name
    return path if path.exists() else None


def picture(seed: int, side: int) -> bytes:
    """A JPEG that compresses about as a photograph does."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, size=(12, 12, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    grainy = np.asarray(coarse, np.int16) + rng.integers(-12, 12, size=(side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
