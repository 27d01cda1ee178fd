"""What ships is small where weights are few or alike, whole when it is loaded, and never silently damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hasten.core.candidate import Candidate
from hasten.core.errors import BundleError
from hasten.core.registry import get
from hasten.core.seams import Runtime, Target, Technique
from hasten.techniques.weight_clustering import shared_values
from hasten.testing import reference_model

onnx = pytest.importorskip("onnx")
TARGET = Target(threads=1)
RUNTIMES = ("onnxruntime", "openvino")


def compiled(candidate: Candidate, name: str, folder: Path, *, packed: bool) -> int:
    """Compile into `folder`; the bytes that ship."""
    folder.mkdir()
    get(Runtime, name)(packed=packed).compile(candidate, TARGET, folder)  # type: ignore[call-arg]
    return sum(file.stat().st_size for file in folder.iterdir())


def outputs(name: str, folder: Path) -> np.ndarray:
    return get(Runtime, name)().load(folder, TARGET).run(reference_model("digits").inputs)["logits"]


def mostly_zeros(folder: Path) -> Candidate:
    """The digits network with nine tenths of its weights gone."""
    candidate = reference_model("digits").graph
    model = onnx.load(str(candidate.path))
    for tensor in model.graph.initializer:
        weights = onnx.numpy_helper.to_array(tensor).copy()
        if weights.dtype == np.float32 and weights.size > 1000:
            weights[np.abs(weights) < np.quantile(np.abs(weights), 0.9)] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, str(folder / "sparse.onnx"))
    return replace(candidate, path=folder / "sparse.onnx")


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_packed_program_computes_the_same_bits_at_every_batch_size(name: str, tmp_path: Path) -> None:
    model = reference_model("digits")
    for packed in (False, True):
        compiled(model.graph, name, tmp_path / str(packed), packed=packed)
    np.testing.assert_array_equal(outputs(name, tmp_path / "True"), outputs(name, tmp_path / "False"))
    one = {key: value[:1] for key, value in model.inputs.items()}
    program = get(Runtime, name)().load(tmp_path / "True", TARGET)
    np.testing.assert_allclose(program.run(one)["logits"], model.outputs["logits"][:1], rtol=1e-4, atol=1e-4)
    assert get(Runtime, name)().operator_times(tmp_path / "True", TARGET, one, 1)


@pytest.mark.parametrize("name", RUNTIMES)
def test_zeros_ship_in_a_fraction_of_their_bytes(name: str, tmp_path: Path) -> None:
    sparse = mostly_zeros(tmp_path)
    plain = compiled(sparse, name, tmp_path / "plain", packed=False)
    packed = compiled(sparse, name, tmp_path / "packed", packed=True)
    dense = compiled(reference_model("digits").graph, name, tmp_path / "dense", packed=True)
    assert packed < 0.45 * plain
    assert packed < 0.5 * dense


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_damaged_packed_file_is_told(name: str, tmp_path: Path) -> None:
    compiled(reference_model("digits").graph, name, tmp_path / "program", packed=True)
    file = max((tmp_path / "program").glob("*.xz"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"model\.\w+\.xz: must be whole"):
        get(Runtime, name)().load(tmp_path / "program", TARGET)


@pytest.mark.parametrize("name", RUNTIMES)
def test_packed_is_tried_only_where_size_is_the_aim(name: str) -> None:
    model, kind = reference_model("digits"), get(Runtime, name)
    assert any(r.options().get("packed") for r in kind.space(model.profile("size")))
    assert not any(r.options().get("packed") for r in kind.space(model.profile("latency")))


@pytest.mark.parametrize("name", RUNTIMES)
def test_clustered_weights_are_numbers_of_a_byte_that_runtimes_look_up(name: str, tmp_path: Path) -> None:
    model = reference_model("digits")
    (tmp_path / "out").mkdir()
    after = get(Technique, "weight-clustering")(num_values=32).apply(model.graph, model.context(tmp_path / "out"))  # type: ignore[call-arg]
    plain = compiled(model.graph, name, tmp_path / "plain", packed=False)
    assert compiled(after, name, tmp_path / "clustered", packed=False) < 0.6 * plain
    assert compiled(after, name, tmp_path / "packed", packed=True) < 0.35 * plain
    expected, got = model.outputs["logits"], outputs(name, tmp_path / "packed")
    assert 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum()) > 20


def test_shared_values_are_the_weights_themselves_where_they_suffice() -> None:
    weights = np.repeat(np.float32([-3, 0, 0.5, 8]), 50)
    assert set(shared_values(weights, 16)) >= {-3.0, 0.0, 0.5, 8.0}


def test_more_shared_values_are_nearer_and_zero_stays_zero() -> None:
    weights = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    weights[:1000] = 0
    errors = []
    for count in (4, 16, 64):
        table = shared_values(weights, count)
        assert len(table) <= count
        assert 0 in table
        errors.append(float(np.abs(weights[:, None] - table).min(1).mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
