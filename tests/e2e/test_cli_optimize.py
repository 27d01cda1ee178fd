"""`hasten optimize` from an ONNX file and unlabelled or labelled arrays to a bundle that verifies: the whole story."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxslim")

import bundles

pytestmark = pytest.mark.slow

KEYS = {"verdict", "reason", "answer", "speedup", "drop_points", "bundle", "report", "account_seconds"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimize")
    bundles.save_classifier(folder / "net.onnx")
    pixels = np.random.default_rng(0).normal(size=(120, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
    np.savez(folder / "data.npz", pixels=pixels)
    return folder


def hasten(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hasten", *args], cwd=folder, capture_output=True, text=True, timeout=560)


@pytest.fixture(scope="module")
def done(folder: Path) -> subprocess.CompletedProcess[str]:
    return hasten(folder, "optimize", "net.onnx", "--data", "data.npz", "--budget", "15s", "--threads", "1", "--json")


def test_its_last_line_is_the_document(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert set(document) == KEYS
    assert document["verdict"] in ("passed", "reference")
    assert document["bundle"] == "out/net"


def test_progress_goes_to_standard_error(done: subprocess.CompletedProcess[str]) -> None:
    assert done.stdout.count("\n") == 1
    assert "lossless" in done.stderr


def test_the_bundle_verifies_and_remembers_the_command(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0
    verified = hasten(folder, "verify", "out/net")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    evidence = [json.loads(line) for line in (folder / "out/net/evidence.jsonl").read_text().splitlines()]
    (first,) = [line for line in evidence if line["kind"] == "run"]
    assert first["command"] == "hasten optimize net.onnx --data data.npz --budget 15s --threads 1 --json"


def test_a_report_lies_in_the_bundle(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    document = json.loads(done.stdout)
    assert document["report"] == "out/net/report.html"
    assert (folder / document["report"]).read_text().lstrip().lower().startswith("<!doctype html>")


def test_why_gives_each_technique_and_runtime_a_sentence(folder: Path) -> None:
    done = hasten(folder, "why", "net.onnx", "--data", "data.npz", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert {"runtime", "technique"} == {line["kind"] for line in plan}
    assert all(line["verdict"] for line in plan)
