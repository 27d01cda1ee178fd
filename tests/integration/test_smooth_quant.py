"""Moving scales changes no output, and makes 8 bits more exact where channels differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.registry import get
from hasten.core.seams import Context, Runtime, Target, Technique
from hasten.core.signature import Signature, TensorSpec
from hasten.techniques.smooth_quant import Seen, noise
from hasten.testing import reference_model

onnx = pytest.importorskip("onnx")
TARGET = Target(threads=1)


def run(candidate: Candidate, folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    folder.mkdir()
    runtime = get(Runtime, "onnxruntime")()
    runtime.compile(candidate, TARGET, folder)
    return next(iter(runtime.load(folder, TARGET).run(inputs).values()))


def applied(name: str, candidate: Candidate, context: Context, folder: Path, **options: Any) -> Candidate:
    folder.mkdir()
    return get(Technique, name)(**options).apply(candidate, replace(context, folder=folder))


def sqnr(expected: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected).sum() / max(1e-30, np.square(got - expected).sum())))


def operators(candidate: Candidate) -> list[str]:
    return [node.op_type for node in onnx.load(str(candidate.path)).graph.node]


def graph(folder: Path, nodes: list[Any], values: dict[str, np.ndarray], shape: tuple[int, ...], outputs: int) -> tuple[Candidate, Context]:
    """A graph from `x` to `y`, and 64 samples."""
    kind = onnx.TensorProto.FLOAT
    model = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x", kind, ["n", *shape])],
        [onnx.helper.make_tensor_value_info("y", kind, None)], [onnx.numpy_helper.from_array(v, k) for k, v in values.items()],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(model, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(folder / "g.onnx"))
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(None, *shape)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(None, outputs)),),
    )
    candidate = Candidate(floor=Floor.GRAPH, path=folder / "g.onnx", signature=signature, lineage=(Step(name="original"),))
    np.save(folder / "x.npy", np.random.default_rng(1).standard_normal((64, *shape), np.float32))
    return candidate, Context(folder=folder, calibration={"x": folder / "x.npy"})


def perceptron(folder: Path, *, read_twice: bool) -> tuple[Candidate, Context]:
    """Layer normalisation with an outlier, two linear layers. read_twice: the normalised values are added to the result too."""
    rng, node = np.random.default_rng(0), onnx.helper.make_node
    gain = np.ones(16, np.float32)
    gain[3] = 100
    values = {"gain": gain, "shift": np.zeros(16, np.float32), "w": rng.standard_normal((16, 16), np.float32) / 4}
    values["w"][3] /= 100
    nodes = [node("LayerNormalization", ["x", "gain", "shift"], ["n"]), node("MatMul", ["n", "w"], ["m" if read_twice else "y"], name="up")]
    return graph(folder, [*nodes, node("Add", ["m", "n"], ["y"])] if read_twice else nodes, values, (16,), 16)


@pytest.mark.parametrize("read_twice", [False, True])
def test_smooth_quant_changes_no_output_and_makes_8_bits_exact(read_twice: bool, tmp_path: Path) -> None:
    before, context = perceptron(tmp_path, read_twice=read_twice)
    after = applied("smooth-quant", before, context, tmp_path / "smooth")
    assert operators(after).count("Mul") == (1 if read_twice else 0), "the division goes into the normalisation where it may"
    x = {"x": np.load(tmp_path / "x.npy")}
    expected = run(before, tmp_path / "a", x)
    np.testing.assert_allclose(run(after, tmp_path / "b", x), expected, rtol=1e-4, atol=1e-4)
    gained = [sqnr(expected, run(applied("static-int8", c, context, tmp_path / f"q{n}", ops="matmul"), tmp_path / f"p{n}", x))
              for n, c in enumerate((before, after))]  # fmt: skip
    assert gained[1] > gained[0] + (-1 if read_twice else 3)


def test_smooth_quant_keeps_the_outputs_of_an_attention_block(tmp_path: Path) -> None:
    model = reference_model("attention")
    after = applied("smooth-quant", model.graph, model.context(tmp_path), tmp_path / "smooth", strength=0.5)
    np.testing.assert_allclose(run(after, tmp_path / "a", model.inputs), model.outputs["logits"], rtol=1e-4, atol=1e-5)


def test_the_noise_that_is_forecast_is_the_noise_that_comes() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 8)) * np.geomspace(0.1, 3, 8)
    weight = rng.standard_normal((8, 12))
    step, steps = (x.max() - x.min()) / 255, np.abs(weight).max(0) / 127
    got = np.round(x / step) * step @ (np.round(weight / steps) * steps)
    told = noise(Seen(low=x.min(0), high=x.max(0), power=np.square(x).mean(0)), weight, np.ones(8))
    assert 0.5 < told / np.square(got - x @ weight).mean(0).sum() < 2
