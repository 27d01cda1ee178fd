"""The laws of a runtime."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..core.candidate import Candidate, Floor
from ..core.errors import HastenError
from ..core.need import need
from ..core.seams import Program, Runtime, Target
from ._models import NAMES, ReferenceModel, reference_model
from ._options import check_fits_imports_nothing, check_options

_TARGET = Target(threads=1)
_SETTLE_SECONDS, _REST_SECONDS = 0.01, 0.04


class RuntimeSuite:
    """Subclass it and give the fixture `kind`: your runtime. Override `tolerance` where it computes in fewer bits."""

    tolerance = 1e-4

    @pytest.fixture(params=NAMES)
    def model(self, request: Any) -> ReferenceModel:
        """The reference models, one after the other."""
        return reference_model(request.param)

    @pytest.fixture
    def program(self, kind: type[Runtime], model: ReferenceModel, tmp_path: Path) -> Program:
        """The model, compiled and loaded."""
        return _build(kind, model, tmp_path / "program")

    def test_options_are_frozen_documented_and_survive_json(self, kind: type[Runtime]) -> None:
        check_options(kind, reference_model("digits").profile())

    def test_every_one_has_the_knob_threads(self, kind: type[Runtime]) -> None:
        assert kind().threads == 0
        assert kind().num_threads(Target(threads=3)) == 3
        assert kind(threads=8).num_threads(Target(threads=2)) == 2  # type: ignore[call-arg]

    def test_fits_imports_no_model_library(self, kind: type[Runtime]) -> None:
        check_fits_imports_nothing(kind)

    def test_it_computes_what_the_reference_computes(self, program: Program, model: ReferenceModel) -> None:
        got = program.run(model.inputs)
        assert list(got) == list(model.outputs)
        for name, expected in model.outputs.items():
            assert got[name].dtype == expected.dtype
            np.testing.assert_allclose(got[name], expected, rtol=self.tolerance, atol=self.tolerance)

    def test_a_batch_of_three_is_three_batches_of_one(self, program: Program, model: ReferenceModel) -> None:
        together = program.run(_rows(model, 0, 3))
        for name, values in together.items():
            apart = np.concatenate([program.run(_rows(model, i, i + 1))[name] for i in range(3)])
            np.testing.assert_allclose(values, apart, rtol=self.tolerance, atol=self.tolerance)

    def test_it_rests_between_calls(self, kind: type[Runtime], model: ReferenceModel, tmp_path: Path) -> None:
        program = _build(kind, model, tmp_path / "program", Target(threads=2))
        program.run(_rows(model, 0, 1))
        time.sleep(_SETTLE_SECONDS)  # OpenMP may spin for some milliseconds
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(_REST_SECONDS)
        used = (time.process_time() - cpu) / (time.perf_counter() - wall)
        assert used < 0.25, "threads that spin after a call slow every neighbour, and whoever is timed next"

    def test_operator_times_name_nodes_of_the_graph(self, kind: type[Runtime], model: ReferenceModel, tmp_path: Path) -> None:
        _build(kind, model, tmp_path / "program").close()
        operators = kind().operator_times(tmp_path / "program", _TARGET, _rows(model, 0, 1), 3)
        if operators is None:
            pytest.skip("it does not tell")
        assert all(o.name and o.kind and o.seconds > 0 and o.start_seconds >= 0 for o in operators)
        named = [node for o in operators for node in o.nodes]
        assert len(named) == len(set(named)), "a node is computed once"
        assert set(named) <= _node_names(model.on(kind.floor))

    def test_outputs_survive_the_next_run_and_inputs_stay(self, program: Program, model: ReferenceModel) -> None:
        first = _rows(model, 0, 1)
        given = {name: array.copy() for name, array in first.items()}
        kept = program.run(first)
        copies = {name: array.copy() for name, array in kept.items()}
        program.run(_rows(model, 1, 2))
        for name, array in kept.items():
            np.testing.assert_array_equal(array, copies[name])
        for name, array in first.items():
            np.testing.assert_array_equal(array, given[name])

    def test_a_compiled_folder_may_move(self, kind: type[Runtime], model: ReferenceModel, tmp_path: Path) -> None:
        before = _build(kind, model, tmp_path / "here").run(_rows(model, 0, 2))
        shutil.move(tmp_path / "here", tmp_path / "there")
        after = kind().load(tmp_path / "there", _TARGET).run(_rows(model, 0, 2))
        for name, array in before.items():
            np.testing.assert_allclose(after[name], array, rtol=1e-6, atol=1e-6)

    def test_an_empty_folder_is_refused_in_one_line(self, kind: type[Runtime], tmp_path: Path) -> None:
        with pytest.raises(HastenError) as caught:
            kind().load(tmp_path, _TARGET)
        assert "\n" not in str(caught.value)


def _build(kind: type[Runtime], model: ReferenceModel, folder: Path, target: Target = _TARGET) -> Program:
    runtime, candidate = kind(), model.on(kind.floor)
    if reason := runtime.fits(candidate, target):
        pytest.skip(reason)
    folder.mkdir()
    runtime.compile(candidate, target, folder)
    return runtime.load(folder, target)


def _node_names(candidate: Candidate) -> set[str]:
    if candidate.floor is Floor.GRAPH:
        return {node.name for node in need("onnx").load(str(candidate.path)).graph.node}
    return {node.name for node in need("torch").export.load(candidate.path).graph.nodes}


def _rows(model: ReferenceModel, start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: array[start:stop] for name, array in model.inputs.items()}
