"""Steps on the way to and on the graph floor that change no outputs, or only the size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.errors import ExportError
from hasten.core.machine import this_machine
from hasten.core.registry import get
from hasten.core.seams import Context, Profile, Runtime, Target, Technique
from hasten.core.signature import Signature, TensorSpec
from hasten.doctor.arithmetic import ShortArithmetic
from hasten.testing import reference_model

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
TARGET = Target(threads=1)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def unfused(folder: Path) -> Candidate:
    """A convolution, its batch normalisation and a branch of constants, as an older exporter leaves them."""
    rng = np.random.default_rng(0)
    values = {
        "w": rng.standard_normal((8, 3, 3, 3), np.float32), "gain": rng.random(8, np.float32), "shift": rng.random(8, np.float32),
        "mean": rng.random(8, np.float32), "variance": rng.random(8, np.float32) + 0.5, "one": np.float32([1]), "two": np.float32([2]),
    }  # fmt: skip
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "gain", "shift", "mean", "variance"], ["b"]),
        node("Add", ["one", "two"], ["three"]),
        node("Identity", ["b"], ["i"]),
        node("Mul", ["i", "three"], ["y"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "unfused",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", 3, 6, 6])],
        [onnx.helper.make_tensor_value_info("y", kind, ["n", 8, 6, 6])],
        [onnx.numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    path = folder / "unfused.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(path))
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(None, 3, 6, 6)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(None, 8, 6, 6)),),
    )
    return Candidate(floor=Floor.GRAPH, path=path, signature=signature, lineage=(Step(name="original"),))


def run(candidate: Candidate, folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    folder.mkdir()
    runtime = get(Runtime, "onnxruntime")()
    runtime.compile(candidate, TARGET, folder)
    return runtime.load(folder, TARGET).run(inputs)


def test_simplify_fuses_batch_normalisation_and_folds_constants(tmp_path: Path) -> None:
    before = unfused(tmp_path)
    (tmp_path / "out").mkdir()
    after = get(Technique, "simplify")().apply(before, Context(folder=tmp_path / "out", calibration={}))
    assert sorted(operators(after.path)) == ["Conv", "Mul"]
    x = {"x": np.random.default_rng(1).random((2, 3, 6, 6), np.float32)}
    np.testing.assert_allclose(run(after, tmp_path / "a", x)["y"], run(before, tmp_path / "b", x)["y"], rtol=1e-4, atol=1e-5)


def test_float16_halves_the_file_and_hardly_moves_the_outputs(tmp_path: Path) -> None:
    model = reference_model("digits")
    (tmp_path / "out").mkdir()
    after = get(Technique, "float16")().apply(model.graph, model.context(tmp_path / "out"))
    assert after.path.stat().st_size < 0.75 * model.graph.path.stat().st_size
    expected, got = model.outputs["logits"], run(after, tmp_path / "program", model.inputs)["logits"]
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 50


def test_float16_is_not_tried_for_speed() -> None:
    profile = reference_model("digits").profile("latency")
    assert "nothing is won for latency" in str(get(Technique, "float16")().fits(None, profile))


def test_bfloat16_rounds_where_it_is_allowed_and_nowhere_else(tmp_path: Path) -> None:
    model, technique, openvino = reference_model("digits"), get(Technique, "bfloat16")(), get(Runtime, "openvino")()
    if reason := technique.fits(
        model.graph, Profile(machine=this_machine(), target=TARGET, facts=ShortArithmetic().ask(TARGET).facts)
    ) or openvino.fits(None, TARGET):
        pytest.skip(reason)
    (tmp_path / "out").mkdir()
    after = technique.apply(model.graph, model.context(tmp_path / "out"))
    errors = {}
    for name, candidate in (("float32", model.graph), ("bfloat16", after)):
        (tmp_path / name).mkdir()
        openvino.compile(candidate, TARGET, tmp_path / name)
        got = openvino.load(tmp_path / name, TARGET).run(model.inputs)["logits"]
        errors[name] = float(np.abs(got - model.outputs["logits"]).max() / np.abs(model.outputs["logits"]).max())
    assert errors["float32"] < 1e-5
    assert 1e-4 < errors["bfloat16"] < 0.05


def test_bfloat16_needs_a_processor_and_a_runtime_that_have_it() -> None:
    profile, model = reference_model("digits").profile("latency"), reference_model("digits")
    technique = get(Technique, "bfloat16")()
    assert "multiplies no bfloat16" in str(technique.fits(None, replace(profile, facts=frozenset())))
    assert technique.fits(None, replace(profile, facts=frozenset({"bfloat16-arithmetic"}))) is None
    allowed = replace(model.graph, facts=model.graph.facts | technique.adds)
    assert "float32" in str(get(Runtime, "onnxruntime")().fits(allowed, TARGET))
    assert get(Runtime, "onnxruntime")().fits(model.graph, TARGET) is None


def test_an_operator_without_a_form_in_onnx_is_named(tmp_path: Path) -> None:
    class Spectral(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).abs()

    torch.export.save(torch.export.export(Spectral(), (torch.rand(2, 3, 3),)), tmp_path / "model.pt2")
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(2, 3, 3)),), outputs=(TensorSpec(name="y", dtype="float32", shape=(2, 3)),)
    )
    candidate = Candidate(floor=Floor.MODULE, path=tmp_path / "model.pt2", signature=signature, lineage=(Step(name="original"),))
    with pytest.raises(ExportError, match="eig") as caught:
        get(Technique, "export-onnx")().apply(candidate, Context(folder=tmp_path, calibration={}))
    assert str(caught.value).count("\n") == 0
    assert caught.value.hint


def test_the_graph_has_the_names_of_the_signature_and_a_free_batch() -> None:
    model = reference_model("two-by-two")
    graph = onnx.load(str(model.graph.path)).graph
    assert [v.name for v in graph.input] == ["picture", "vector"]
    assert [v.name for v in graph.output] == ["class", "score"]
    assert all(value.type.tensor_type.shape.dim[0].dim_param for value in graph.input)
