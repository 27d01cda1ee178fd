"""KServe's own clients against the real server, over REST and gRPC: what they get is what the bundle computes.

They stand in an environment of their own (they pin what others need newer):
`python -m venv out/kserve && out/kserve/bin/pip install kserve==0.21.0`; without it this is skipped.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import write

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "out" / "kserve" / "bin" / "python"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.exists(), reason="no client of KServe in out/kserve")]
pytest.importorskip("onnx")
pytest.importorskip("grpc", reason="pip install 'hasten[serve]'")

Said = tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What the clients were told, their outputs, and those of the bundle."""
    folder = tmp_path_factory.mktemp("tensors")
    path, values = write(bundles.tensor_contents(folder), folder / "out"), serving.tensors(3)
    given, answers = folder / "in.npz", folder / "answers.npz"
    np.savez(given, **values)
    with serving.process(path, path, grpc=True) as (_, (http, grpc)):
        command = [str(PYTHON), str(Path(__file__).with_name("kserve_requests.py")), "toy-model", http, grpc.removeprefix("grpc://")]
        done = subprocess.run([*command, str(given), str(answers)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    with Bundle.open(path) as bundle:
        expected = bundle.run(bundle.prepare_tensors(values))
    return json.loads(done.stdout.splitlines()[-1]), dict(np.load(answers)), expected


@pytest.mark.parametrize("case", ["rest.json", "rest.binary", "grpc.contents", "grpc.binary", "grpc.version"])
def test_answers_are_what_the_bundle_computes(said: Said, case: str) -> None:
    facts, found, expected = said
    assert {name for name in found if name.startswith(f"{case}/")} == {f"{case}/{name}" for name in expected}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[f"{case}/{name}"].astype(array.dtype), array)
    assert facts[f"{case}.model"] == "toy-model"


@pytest.mark.parametrize("case", ["rest.json.chosen", "rest.binary.chosen"])
def test_outputs_that_were_asked_for_come_in_that_order(said: Said, case: str) -> None:
    _, found, expected = said
    assert [name for name in found if name.startswith(f"{case}/")] == [f"{case}/total", f"{case}/same"]
    np.testing.assert_array_equal(found[f"{case}/total"].astype(expected["total"].dtype), expected["total"])


def test_ids_come_back(said: Said) -> None:
    facts, _, _ = said
    assert {facts[f"{case}.id"] for case in ("rest.json", "rest.binary", "grpc.contents", "grpc.binary")} == {"seven"}
    assert facts["rest.json.header"] == facts["rest.binary.header"] == "seven"


def test_health(said: Said) -> None:
    facts, _, _ = said
    assert all(facts[f"{protocol}.{what}"] for protocol in ("rest", "grpc") for what in ("live", "ready", "model"))


def test_errors_say_what_is_wrong(said: Said) -> None:
    facts, _, _ = said
    assert "400" in facts["rest.wrong"]
    assert "404" in facts["rest.unknown"]
    assert "inputs" in facts["grpc.wrong"] or "right" in facts["grpc.wrong"]
    assert "model: must be one of toy-model" in facts["grpc.unknown"]
