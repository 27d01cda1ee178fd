"""The laws of a technique."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..core.candidate import Candidate, Floor
from ..core.digest import digest_array, digest_json, digest_path
from ..core.errors import NotPossibleHere
from ..core.need import need
from ..core.registry import get
from ..core.seams import Context, Runtime, Target, Technique, Training
from ._models import NAMES, ReferenceModel, reference_model
from ._options import check_fits_imports_nothing, check_options

_TARGET = Target(threads=1)
_EXAMPLES = 64
_FEW: dict[str, Any] = {"epochs": 1, "trials": 3, "samples": 64}
_ARITHMETIC = frozenset({"vnni", "float16-arithmetic", "bfloat16-arithmetic"})  # what is built must not depend on who builds it


class TechniqueSuite:
    """Subclass it and give the fixture `kind`: your technique.

    tolerance: what a lossless one may change; least_sqnr: decibels that a lossy one must keep on the trained model.
    """

    tolerance = 1e-4
    least_sqnr = 5.0

    @pytest.fixture(params=NAMES)
    def model(self, request: Any) -> ReferenceModel:
        """The reference models, one after the other."""
        return reference_model(request.param)

    def test_options_are_frozen_documented_and_survive_json(self, kind: type[Technique]) -> None:
        check_options(kind, reference_model("digits").profile())

    def test_fits_imports_no_model_library(self, kind: type[Technique]) -> None:
        check_fits_imports_nothing(kind)

    def test_it_promises_a_positive_gain_and_cost(self, kind: type[Technique], model: ReferenceModel) -> None:
        forecast = kind().expects(replace(model.profile(), num_train=_EXAMPLES, epoch_seconds=1.0))
        assert forecast.speedup > 0
        assert forecast.seconds > 0

    def test_what_trains_can_train_for_longer_or_shorter(self, kind: type[Technique], model: ReferenceModel) -> None:
        if not kind.trains:
            pytest.skip("it does not train")
        profile = replace(model.profile(), num_train=_EXAMPLES, epoch_seconds=1.0)
        times = [kind(epochs=epochs).expects(profile).seconds for epochs in (1, 2, 5)]  # type: ignore[call-arg]
        assert times == sorted(set(times))

    def test_it_never_runs_twice_or_is_harmless_when_it_does(self, kind: type[Technique]) -> None:
        assert kind.floor is Floor.MODULE or kind.forbids & kind.adds, "a graph technique forbids what it adds"

    def test_it_writes_only_into_its_folder_and_tells_what_it_did(
        self, kind: type[Technique], model: ReferenceModel, tmp_path: Path
    ) -> None:
        before = model.on(kind.floor)
        content = digest_path(before.path)
        after = _apply(kind, model, tmp_path / "out")
        assert digest_path(before.path) == content
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
        assert after.path.is_relative_to(tmp_path / "out")
        assert after.path.exists()
        assert [s.name for s in after.signature.inputs] == [s.name for s in before.signature.inputs]
        assert [s.name for s in after.signature.outputs] == [s.name for s in before.signature.outputs]
        assert after.facts == before.facts | kind.adds
        assert after.lossless == kind.lossless
        assert after.lineage[-1].name == kind.name
        assert after.id != before.id

    def test_the_same_again_gives_the_same_weights(self, kind: type[Technique], model: ReferenceModel, tmp_path: Path) -> None:
        first, second = (_apply(kind, model, tmp_path / name) for name in ("a", "b"))
        assert first.id == second.id
        assert _weights(first) == _weights(second)

    def test_it_computes_what_the_reference_computes(self, kind: type[Technique], model: ReferenceModel, tmp_path: Path) -> None:
        after = _apply(kind, model, tmp_path / "out")
        got = _run(after, model, tmp_path)
        for name, expected in model.outputs.items():
            if kind.lossless:
                np.testing.assert_allclose(got[name], expected, rtol=self.tolerance, atol=self.tolerance)
            elif kind.trains:  # how well it learns takes real data and time to tell
                assert got[name].shape == expected.shape
                assert np.isfinite(got[name]).all()
            elif model.name == "digits":
                error = float(np.square(got[name] - expected).sum())
                assert 10 * np.log10(np.square(expected).sum() / max(error, 1e-30)) > self.least_sqnr


def _apply(kind: type[Technique], model: ReferenceModel, folder: Path) -> Candidate:
    candidate = model.on(kind.floor)
    if absent := kind.needs - candidate.facts:
        pytest.skip(f"needs a candidate with {', '.join(sorted(absent))}")
    reasons = []
    for objective in ("latency", "size"):
        profile = replace(model.profile(objective, facts=_ARITHMETIC), num_train=_EXAMPLES, epoch_seconds=1.0)
        technique = _shortest(next(iter(kind.space(profile))))
        if reason := technique.fits(candidate, profile):
            reasons.append(reason)
            continue
        folder.mkdir()
        try:
            return technique.apply(candidate, _with_training(model, folder) if kind.trains else model.context(folder))
        except NotPossibleHere as error:  # what only building tells, such as widths too small to cut
            pytest.skip(str(error))
    pytest.skip(reasons[0])


def _shortest(technique: Technique) -> Technique:
    """The technique with as little training as its options allow."""
    few = {name: value for name, value in _FEW.items() if hasattr(technique, name)}
    return type(technique)(**{**technique.options(), **few})


def _with_training(model: ReferenceModel, folder: Path) -> Context:
    """The calibration samples may be trained on, without labels."""
    training = Training(
        inputs=model.calibration, labels=None, original=model.on(Floor.MODULE), output=0, classifier=model.name == "digits",
        checkpoint=folder.parent / "checkpoint.pt", batch_size=8,
    )  # fmt: skip
    return replace(model.context(folder), training=training)


def _run(candidate: Candidate, model: ReferenceModel, tmp_path: Path) -> dict[str, np.ndarray]:
    runtime = get(Runtime, "eager" if candidate.floor is Floor.MODULE else "onnxruntime")()
    folder = tmp_path / "program"
    folder.mkdir()
    runtime.compile(candidate, _TARGET, folder)
    return runtime.load(folder, _TARGET).run(model.inputs)


def _weights(candidate: Candidate) -> str:
    """The name of all weights, whatever order they are stored in."""
    if candidate.floor is Floor.MODULE:
        state = need("torch").export.load(candidate.path).state_dict
        return digest_json({name: digest_array(tensor.detach().numpy()) for name, tensor in state.items()})
    onnx = need("onnx")
    tensors = onnx.load(str(candidate.path)).graph.initializer
    return digest_json({tensor.name: digest_array(onnx.numpy_helper.to_array(tensor)) for tensor in tensors})
