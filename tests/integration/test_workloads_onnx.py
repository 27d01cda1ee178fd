"""ONNX files: what is accepted, what is written, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.candidate import Candidate, Floor
from hasten.core.errors import DataError, JobError, ModelError
from hasten.core.job import Job
from hasten.workloads.onnx_file import OnnxFile

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT = TensorProto.FLOAT
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
X = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)


def value(name: str, shape: list[Any], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, np.ndarray], *, opset: int = 17) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(w, name) for name, w in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.acme", 1)], ir_version=10)
    onnx.save(model, path)
    return path


def linear(path: Path, batch: Any = 1, weight: np.ndarray = WEIGHT, **options: Any) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return write(path, nodes, [value("x", [batch, 4])], [value("y", [batch, 3])], {"w": weight}, **options)


def load(path: Path, example: dict[str, np.ndarray], **model: Any) -> Candidate:
    folder = path.parent / "out"
    folder.mkdir(exist_ok=True)
    job = Job.make({"model": {"source": path.name, **model}, "data": {"content": 1}}, folder=path.parent)
    assert OnnxFile().fits(job) is None
    return OnnxFile().open(job, example, folder)


def run(candidate: Candidate, **inputs: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(candidate.path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)  # type: ignore[no-any-return]


def refuses(path: Path, kind: type[JobError], message: str, example: dict[str, np.ndarray] | None = None, **model: Any) -> None:
    with pytest.raises(kind) as caught:
        load(path, example or {"": X}, **model)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("batch", [1, "rows"])
def test_a_batch_axis_of_one_or_with_a_name_is_free(tmp_path: Path, batch: Any) -> None:
    path = linear(tmp_path / "m.onnx", batch)
    before = path.read_bytes()
    candidate = load(path, {"": X})
    assert (candidate.floor, candidate.lossless, candidate.path) == (Floor.GRAPH, True, tmp_path / "out" / "model.onnx")
    assert candidate.signature.to_json() == {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [None, 3]}],
    }
    np.testing.assert_allclose(run(candidate, x=X)[0], np.maximum(X @ WEIGHT, 0), rtol=1e-5)
    assert path.read_bytes() == before


@pytest.mark.parametrize("batch", [1, "rows"])
def test_a_batch_axis_that_must_be_one_stays_one(tmp_path: Path, batch: Any) -> None:
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [batch, 4])], [value("y", [batch, 2, 2])], {"to": np.array([1, 2, 2])})
    candidate = load(path, {"x": X})
    assert candidate.signature.batch == 1
    assert candidate.signature.outputs[0].shape == (1, 2, 2)


def test_samples_that_would_mix_keep_the_batch_fixed(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMax", ["x"], ["m"], axes=[0], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, [value("x", [1, 4])], [value("y", [1, 4])], {})
    assert load(path, {"x": X}).signature.batch == 1


def test_a_larger_fixed_batch_is_kept(tmp_path: Path) -> None:
    candidate = load(linear(tmp_path / "m.onnx", 8), {"": X})
    assert (candidate.signature.inputs[0].shape, candidate.signature.outputs[0].shape) == ((8, 4), (8, 3))


def test_other_free_axes_stay_free(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, [value("x", ["n", "time"])], [value("y", ["n", "time"])], {})
    signature = load(path, {"": X}).signature
    assert (signature.inputs[0].shape, signature.outputs[0].shape) == ((None, None), (None, None))


def test_several_inputs_and_outputs_are_bound_by_name_and_cast(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["w", "ids"], ["rows"], axis=0),
        helper.make_node("Add", ["rows", "x"], ["sum"]),
        helper.make_node("ArgMax", ["sum"], ["best"], axis=1, keepdims=0),
    ]
    inputs = [value("ids", ["n"], TensorProto.INT64), value("x", ["n", 3])]
    path = write(tmp_path / "m.onnx", nodes, inputs, [value("sum", ["n", 3]), value("best", ["n"], TensorProto.INT64)], {"w": WEIGHT})
    candidate = load(path, {"x": np.ones((2, 3), np.float64), "ids": np.array([0, 3], np.int32)})
    assert [(s.name, s.dtype, s.shape) for s in candidate.signature.inputs] == [("ids", "int64", (None,)), ("x", "float32", (None, 3))]
    assert [(s.name, s.dtype, s.shape) for s in candidate.signature.outputs] == [("sum", "float32", (None, 3)), ("best", "int64", (None,))]


def test_weights_beside_the_file_come_along_and_count(tmp_path: Path) -> None:
    def beside(weight: np.ndarray) -> Candidate:
        model = onnx.load(linear(tmp_path / "whole.onnx", weight=weight))
        (tmp_path / "m.data").unlink(missing_ok=True)
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        return load(tmp_path / "m.onnx", {"": X})

    first, second = beside(WEIGHT), beside(WEIGHT + 1)
    assert first.id != second.id
    np.testing.assert_allclose(run(second, x=X)[0], np.maximum(X @ (WEIGHT + 1), 0), rtol=1e-5)


def test_equal_content_has_an_equal_name(tmp_path: Path) -> None:
    ids = []
    for name, weight in (("a.onnx", WEIGHT), ("b.onnx", WEIGHT), ("c.onnx", WEIGHT + 1)):
        ids.append(load(linear(tmp_path / name, weight=weight), {"": X}).id)
    assert ids[0] == ids[1] != ids[2]


def test_a_quantised_model_is_known_as_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = {"q": np.ones((4, 3), np.int8), "s": np.float32([0.5]).reshape(())}
    path = write(tmp_path / "m.onnx", nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], weights)
    assert load(path, {"": X}).facts == {"int8-weights", "qdq"}


NEWEST = onnx.defs.onnx_opset_version()


def test_data_that_do_not_fit_are_told_in_one_line(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    refuses(path, DataError, "input 'z': must be one of the model's inputs x. Rename it in the data.", {"z": X})
    refuses(path, DataError, "input 'x': must have shape (N, 4), but got (4, 5).", {"": np.zeros((4, 5), np.float32)})
    refuses(path, DataError, "input 'x': must have 2 axes (N, 4), but got 3 axes (4, 2, 2).", {"": np.zeros((4, 2, 2), np.float32)})
    refuses(path, DataError, "input 'x': must be float32, but got complex64.", {"": np.zeros((4, 4), np.complex64)})


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["pixels", "b"], ["y"])]
    path = write(tmp_path / "m.onnx", nodes, [value("pixels", ["n", 4]), value("b", ["n", 4])], [value("y", ["n", 4])], {})
    refuses(path, DataError, "input 'b': is missing. The model wants pixels, b.", {"pixels": X})
    refuses(path, DataError, "input 'pixel': must be one of the model's inputs pixels, b. Did you mean 'pixels'?", {"pixel": X, "b": X})


def test_models_that_cannot_be_used_are_told_in_one_line(tmp_path: Path) -> None:
    hint = "Paths start at the folder of the job file."
    refuses(tmp_path / "no.onnx", ModelError, f"model.source: must be a file that exists, but got 'no.onnx'. {hint}")
    path = linear(tmp_path / "m.onnx")
    refuses(path, ModelError, "model.weights: must not be given with an ONNX file, which holds its weights, but got 'w.safetensors'.",
            weights="w.safetensors")  # fmt: skip
    weight = WEIGHT.copy()
    weight[1, 2] = np.nan
    refuses(linear(path, weight=weight), ModelError, "m.onnx, weight 'w': must be finite, but got 'NaN'.")
    refuses(linear(path, opset=999), ModelError,
            f"m.onnx: must use an opset of at most {NEWEST}, but got 999. Export it with a lower opset_version.")  # fmt: skip
    path.write_bytes(b"")
    refuses(path, ModelError, "m.onnx: must hold a graph with at least one operator.")
    write(path, [helper.make_node("Rellu", ["x"], ["y"])], [value("x", [1, 4])], [value("y", [1, 4])], {})
    refuses(path, ModelError, "m.onnx: must be a valid ONNX model (No Op registered for Rellu with domain_version of 17).")
    write(path, [helper.make_node("Log", ["x"], ["y"])], [value("x", [1, 4])], [value("y", [1, 4])], {})
    refuses(path, ModelError, "m.onnx, output 'y': must be finite on the data, but got 'NaN'.", {"": -np.ones((2, 4), np.float32)})
    write(path, [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], [value("x", [1, 4])], [value("y", [])], {})
    refuses(path, ModelError, "m.onnx, output 'y': must be a tensor whose first axis is the batch, but got ().")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, this is no model", r"^m\.onnx: must be an ONNX file \(DecodeError: .*\)\.$"),
        (None, r"^m\.onnx: must load in ONNX Runtime \(.*com\.acme:Frob.*\)\.$"),
    ],
)
def test_foreign_errors_come_on_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "m.onnx"
    if content is None:
        write(path, [helper.make_node("Frob", ["x"], ["y"], domain="com.acme")], [value("x", [1, 4])], [value("y", [1, 4])], {})
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(path, {"": X})
