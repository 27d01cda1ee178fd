"""Energy as objective and limit, from the command line: refused where nothing is known, estimated where the watts are stated."""

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

from hasten.measure.energy import POWERCAP

pytestmark = [pytest.mark.slow, pytest.mark.skipif(POWERCAP.exists(), reason="this machine may count energy")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("energy")
    bundles.save_classifier(folder / "net.onnx")
    pixels = np.random.default_rng(0).normal(size=(120, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
    np.savez(folder / "data.npz", pixels=pixels)
    return folder


def optimize(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hasten", "optimize", "net.onnx", "--data", "data.npz", "--budget", "10s", "--threads", "1", "--json"]
    return subprocess.run([*command, *args], cwd=folder, capture_output=True, text=True, timeout=560)


def test_without_counters_and_watts_the_objective_is_refused_with_the_way_out(folder: Path) -> None:
    done = optimize(folder, "--objective", "energy")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1] == (
        "error: search.objective: needs the energy of a call, which is unknown here: there are no RAPL counters in /sys/class/powercap. "
        "For an estimate set target.watts_per_core to the watts that one busy core draws."
    )


def test_with_watts_it_is_an_estimate_and_says_so_everywhere(folder: Path) -> None:
    done = optimize(folder, "--objective", "energy", "--set", "target.watts_per_core=5", "--set", "target.runtimes=['onnxruntime']")
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    answer = document["answer"]["energy_joules"]
    assert answer["label"] == "estimated"
    assert 0 < answer["low"] <= answer["value"] <= answer["high"]
    evidence = [json.loads(line) for line in (folder / "out/net/evidence.jsonl").read_text().splitlines()]
    (run,) = [line for line in evidence if line["kind"] == "run"]
    assert run["energy"]["label"] == "estimated"
    assert "5 W a core" in run["energy"]["how"]
    known = [line for line in evidence if line["kind"] == "measurement" and line["metric"] == "energy"]
    assert {line["method"]["label"] for line in known} == {"estimated"}
    assert "final" in {line["stage"] for line in known}
    assert "Estimated, not measured: CPU seconds of a call x 5 W a core" in (folder / "out/net/report.html").read_text()
    assert "Energy of a call, estimated" in (folder / "out/net/MODEL_CARD.md").read_text()


def test_a_limit_on_energy_is_kept_or_nothing_is_handed_out(folder: Path) -> None:
    limits = ["--set", "limits.energy_mj=0.000001", "--set", "target.watts_per_core=5", "--set", "target.runtimes=['onnxruntime']"]
    done = optimize(folder, *limits, "--out", "none")
    assert done.returncode == 5, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document["answer"] is None
    assert document["reason"].endswith(" mJ a call (estimated), over the 1e-06 mJ allowed")
    assert not (folder / "none").exists()
