"""A network that int8 as a whole breaks is rescued by leaving the right parts in float."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hasten.core.candidate import Candidate, Step
from hasten.core.registry import get
from hasten.core.seams import Context, Runtime, Target, Technique
from hasten.measure.sensitivity import Part, measure_parts
from hasten.testing import reference_model

TARGET = Target(threads=1)
OUTLIER = 2000.0


def simplified(folder: Path) -> Candidate:
    model = reference_model("digits")
    return get(Technique, "simplify")().apply(model.graph, Context(folder=folder, calibration={}))


def with_outlier(candidate: Candidate, folder: Path) -> Candidate:
    """The same function, but one channel between the first two convolutions is thousands of times larger than the others."""
    graph = onnx.load(str(candidate.path))
    first, second = [n for n in graph.graph.node if n.op_type == "Conv"][:2]
    factors = {first.input[1]: (0, OUTLIER), first.input[2]: (0, OUTLIER), second.input[1]: (1, 1 / OUTLIER)}
    for tensor in graph.graph.initializer:
        if tensor.name in factors:
            axis, factor = factors[tensor.name]
            values = numpy_helper.to_array(tensor).copy()
            values[(slice(None),) * axis + (0,)] *= factor
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path = folder / "model.onnx"
    onnx.save(graph, str(path))
    return replace(candidate, path=path, lineage=(*candidate.lineage, Step(name="outlier")))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    return with_outlier(simplified(tmp_path_factory.mktemp("plain")), tmp_path_factory.mktemp("outlier"))


@cache
def parts_of(path: Path) -> list[Part]:
    calibration = reference_model("digits").calibration
    return [Part.from_json(p) for p in measure_parts({}, path, calibration, batch=1, reduce_range=True)]


def agreement(candidate: Candidate, runtime: str, folder: Path) -> float:
    """Share of samples whose class is that of the original."""
    model, kind = reference_model("digits"), get(Runtime, runtime)()
    folder.mkdir()
    kind.compile(candidate, TARGET, folder)
    logits = kind.load(folder, TARGET).run(model.inputs)["logits"]
    return float((logits.argmax(1) == model.outputs["logits"].argmax(1)).mean())


def quantised(candidate: Candidate, name: str, skip: tuple[str, ...], folder: Path) -> Candidate:
    folder.mkdir()
    technique = replace(get(Technique, name)(), reduce_range=True).skipping(skip)  # type: ignore[type-var]
    assert technique is not None
    return technique.apply(candidate, Context(folder=folder, calibration=reference_model("digits").calibration))


def test_the_outlier_changes_nothing_in_float(broken: Candidate, tmp_path: Path) -> None:
    assert agreement(broken, "onnxruntime", tmp_path / "program") == 1.0


def test_the_part_that_reads_the_outlier_is_the_noisiest(broken: Candidate) -> None:
    parts = parts_of(broken.path)
    second = [n.name for n in onnx.load(str(broken.path)).graph.node if n.op_type == "Conv"][1]
    noisiest = max(parts, key=lambda part: part.noise)
    assert second in noisiest.nodes
    assert noisiest.noise > 10 * sorted(p.noise for p in parts)[0]


@pytest.mark.parametrize(("name", "runtime"), [("static-int8", "onnxruntime"), ("static-int8-nncf", "openvino")])
def test_leaving_the_noisy_parts_in_float_rescues_what_int8_breaks(broken: Candidate, name: str, runtime: str, tmp_path: Path) -> None:
    parts = sorted(parts_of(broken.path), key=lambda part: -part.noise)
    noisy = tuple(node for part in parts if part.noise > 0.01 for node in part.nodes)
    assert 0 < len(noisy) < sum(len(p.nodes) for p in parts)
    whole = agreement(quantised(broken, name, (), tmp_path / "whole"), runtime, tmp_path / "whole-program")
    mixed = agreement(quantised(broken, name, noisy, tmp_path / "mixed"), runtime, tmp_path / "mixed-program")
    assert whole < 0.9
    assert mixed >= 0.98


def test_skipped_nodes_are_float_and_the_others_are_not(broken: Candidate, tmp_path: Path) -> None:
    first = parts_of(broken.path)[0].nodes[0]
    graph = onnx.load(str(quantised(broken, "static-int8", (first,), tmp_path / "q").path)).graph
    made_by = {out: n.op_type for n in graph.node for out in n.output}
    kinds = {n.name: {made_by.get(i) for i in n.input} for n in graph.node if n.op_type in ("Conv", "Gemm")}
    assert "DequantizeLinear" not in kinds[first]
    assert all("DequantizeLinear" in k for name, k in kinds.items() if name != first)


def test_the_noise_of_all_parts_is_of_the_order_of_the_whole(tmp_path: Path) -> None:
    """Additivity: what the choice of parts stands on."""
    plain = simplified(tmp_path)
    total = sum(part.noise for part in parts_of(plain.path))
    model, kind = reference_model("digits"), get(Runtime, "onnxruntime")()
    (tmp_path / "program").mkdir()
    kind.compile(quantised(plain, "static-int8", (), tmp_path / "q"), TARGET, tmp_path / "program")
    got, right = kind.load(tmp_path / "program", TARGET).run(model.inputs)["logits"], model.outputs["logits"]
    whole = float(np.mean((got - right) ** 2) / np.mean(right**2))
    assert whole / 8 < total < whole * 8
