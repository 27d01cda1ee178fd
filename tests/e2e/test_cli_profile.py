"""`hasten profile` on a model, on a bundle and on a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import bundles

from hasten import cli
from hasten.bundle.write import write
from hasten.profiling import profile

pytestmark = pytest.mark.slow

KEYS = {
    "name", "sentence", "threads", "batch_size", "machine", "ceilings", "runtimes", "problems", "sentences", "files",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _brief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rounds: what is tested is the story, not the numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profile, "_PLAN", profile.Plan(rounds=5, block_seconds=0.5, warm_up_seconds=0.1))
    monkeypatch.setattr(profile, "_BATCHES", (1, 4))


def run(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    code = cli.main(["profile", *args, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    assert set(document) == KEYS
    return document


def check_runtime(row: dict[str, Any]) -> None:
    assert row["sentence"].endswith(".")
    assert sum(o["share"] for o in row["operators"]) == pytest.approx(1)
    assert all(o["seconds"] > 0 for o in row["operators"])
    assert row["memory"]["peak_bytes"] >= row["memory"]["before_bytes"] > 0
    assert row["memory"]["samples"]
    assert row["threads"][0]["threads"] == 1
    if row["num_runs"] < 299:
        assert row["percentiles_seconds"]["p99"] is None


def test_an_onnx_file_is_profiled_on_every_runtime_and_the_files_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    bundles.save_classifier(Path("net.onnx"))
    document = run(capsys, "net.onnx", "--threads", "1")
    assert document["threads"] == 1
    assert "onnxruntime" in {row["name"] for row in document["runtimes"]}
    assert "null" in document["problems"]
    latencies = [row["latency"]["value"] for row in document["runtimes"]]
    assert latencies == sorted(latencies)
    for row in document["runtimes"]:
        check_runtime(row)
        assert [b["batch_size"] for b in row["batches"]] == [1, 4]
        conv = next(o for o in row["operators"] if o["kind"] == "Conv")
        assert conv["flops"] >= 2 * 8 * 27 * bundles.SIDE**2  # named although the file's nodes have no names
        assert conv["bytes"] > 0
        assert conv["reach"] > 0
    trace = json.loads(Path("out/net-profile/trace.json").read_text())
    assert len({e["pid"] for e in trace["traceEvents"]}) == len(document["runtimes"])
    assert set(document["files"]) >= {"profile", "trace"}
    assert all(Path(path).is_file() for path in document["files"].values())


def test_a_bundle_is_profiled_on_its_own_runtime_and_its_table_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    Path("parts").mkdir()
    write(bundles.picture_contents(Path("parts")), Path("bundle"))
    assert cli.main(["profile", "bundle", "--out", "here"]) == 0
    out, err = capsys.readouterr()
    assert "== operators" in err
    assert "onnxruntime: " in out
    assert "Conv" in out
    assert "trace: here/trace.json" in out
    (row,) = json.loads(Path("here/profile.json").read_text())["runtimes"]
    check_runtime(row)


def test_a_model_of_fixed_batch_has_no_batch_curve(capsys: pytest.CaptureFixture[str]) -> None:
    bundles.save_classifier(Path("fixed.onnx"), batch=2)
    document = run(capsys, "fixed.onnx")
    assert document["batch_size"] == 2
    assert all(row["batches"] == [] for row in document["runtimes"])


def test_a_job_is_profiled_with_its_own_data_and_runtimes(capsys: pytest.CaptureFixture[str]) -> None:
    bundles.save_classifier(Path("net.onnx"))
    rng = np.random.default_rng(0)
    np.savez(
        "data.npz", pixels=rng.normal(size=(70, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32), label=np.arange(70) % bundles.CLASSES
    )
    Path("job.toml").write_text(
        "[model]\nsource = 'net.onnx'\n[data]\nsource = 'data.npz'\n[target]\nruntimes = ['onnxruntime']\nthreads = 1\n"
    )
    document = run(capsys, "job.toml")
    (row,) = document["runtimes"]
    assert (row["name"], document["threads"], document["problems"]) == ("onnxruntime", 1, {})
    check_runtime(row)
