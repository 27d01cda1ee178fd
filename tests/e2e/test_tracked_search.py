"""A search that is tracked at its end, and one whose tracking fails: the search is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
pytest.importorskip("mlflow", reason='needs pip install "hasten[mlflow]"')

import bundles
import mlflow
import numpy as np

from hasten.bundle.read import Bundle
from hasten.tracking.place import Place

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    bundles.save_classifier(folder / "net.onnx")
    pixels = np.random.default_rng(0).normal(size=(120, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
    np.savez(folder / "data.npz", pixels=pixels)
    (folder / "file.txt").write_text("no folder")
    return folder


def optimize(folder: Path, uri: str, *more: str) -> subprocess.CompletedProcess[str]:
    args = ["optimize", "net.onnx", "--data", "data.npz", "--budget", "10s", "--threads", "1", "--json", "--set", f"tracking.uri={uri}"]
    return subprocess.run([sys.executable, "-m", "hasten", *args, *more], cwd=folder, capture_output=True, text=True, timeout=560)


def client_of(folder: Path, name: str) -> Any:
    place = Place.of(name, folder)
    return mlflow.MlflowClient(place.uri, place.uri)


def test_each_trial_of_the_search_is_a_run(folder: Path) -> None:
    done = optimize(folder, "runs")
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    tracked, client = document["tracking"], client_of(folder, "runs")
    trials = [line for line in Bundle.open(folder / document["bundle"]).evidence if line["kind"] == "trial"]
    (experiment,) = [e for e in client.search_experiments() if e.name == "hasten"]
    below = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{tracked['run_id']}'")
    assert {r.data.tags["hasten.trial"]: r.data.params["fate"] for r in below} == {t["id"]: t["fate"] for t in trials}
    assert client.get_model_version_by_alias("net", "answer").run_id == tracked["run_id"]


def test_a_place_that_cannot_be_written_costs_a_warning_and_nothing_else(folder: Path) -> None:
    done = optimize(folder, "file.txt/below")
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document["tracking"]["error"].startswith("tracking.uri: cannot be written")
    assert "warning: the search was not tracked: tracking.uri: cannot be written" in done.stderr
    verified = subprocess.run([sys.executable, "-m", "hasten", "verify", document["bundle"]], cwd=folder, timeout=560)
    assert verified.returncode == 0


def test_a_search_in_which_nothing_keeps_the_limits_is_tracked_too(folder: Path) -> None:
    done = optimize(folder, "failed", "--set", "limits.latency_ms=0.000001")
    assert done.returncode == 5, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert (document["verdict"], document["tracking"]["model"]) == ("failed", None)
    assert document["tracking"]["candidates"] >= 2
    run = client_of(folder, "failed").get_run(document["tracking"]["run_id"])
    assert run.data.params["limits.latency_ms"] == "1e-06"


def test_a_wrong_place_is_an_error_before_the_search(folder: Path) -> None:
    done = optimize(folder, "postgresql://host/db")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
