"""A bundle in MLflow, written to a real SQLite database and read back with MLflow's own client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow", reason='needs pip install "hasten[mlflow]"')
pytest.importorskip("sqlalchemy", reason='needs pip install "hasten[mlflow]"')

import bundles
import mlflow
import numpy as np
import report_fixture

import hasten
from hasten import cli
from hasten.bundle.write import add_file, write
from hasten.search.evidence import without_bundle
from hasten.tracking.place import Place
from hasten.tracking.runs import Search
from hasten.tracking.track import track
from hasten.tracking.write import Tracked

pytestmark = pytest.mark.slow

NAME = "d\u00e9j\u00e0 vu/'n\u00b0 1': \u03b7"
TRIALS = {line["id"]: line for line in report_fixture.evidence() if line["kind"] == "trial"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the null runtime, with the evidence of a search over fourteen candidates and a report."""
    folder = tmp_path_factory.mktemp("bundle")
    evidence = [{**line, "model_name": NAME} if line["kind"] == "run" else line for line in report_fixture.evidence()]
    (folder / "parts").mkdir()
    out = write(bundles.null_contents(folder / "parts", model=NAME, evidence=evidence, answer=report_fixture.answer()), folder / "out")
    add_file(out, "report.html", "<!doctype html>")
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.of("mlflow runs", tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A database with its tables, which take seconds to make."""
    place = Place.of(str(tmp_path_factory.mktemp("empty")))
    mlflow.MlflowClient(place.uri, place.uri).search_experiments()
    return place


@pytest.fixture
def fresh(empty: Place, tmp_path: Path) -> Place:
    place = Place.of(str(tmp_path / "fresh"))
    place.prepare()
    assert empty.database is not None
    assert place.database is not None
    shutil.copyfile(empty.database, place.database)
    return place


@pytest.fixture(scope="module")
def tracked(bundle: Path, place: Place) -> Tracked:
    return hasten.track(bundle, uri=place.uri)


@pytest.fixture(scope="module")
def client(place: Place, tracked: Tracked) -> Any:
    return mlflow.MlflowClient(place.uri, place.uri)


def runs_of(client: Any, experiment: str = "hasten") -> list[Any]:
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def test_each_candidate_is_a_run_below_the_search(client: Any, tracked: Tracked) -> None:
    parent, below = client.get_run(tracked.run_id), [r for r in runs_of(client) if r.info.run_id != tracked.run_id]
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", NAME)
    assert {r.data.tags["mlflow.parentRunId"] for r in below} == {tracked.run_id}
    assert Counter(r.data.params["fate"] for r in below) == Counter(line["fate"] for line in TRIALS.values())
    assert {r.data.tags["hasten.trial"] for r in below if r.info.status == "FAILED"} == {"e1"}
    assert tracked.candidates == len(below) == len(TRIALS)


def test_what_was_written_is_what_the_evidence_says(client: Any, tracked: Tracked) -> None:
    search = Search.of(report_fixture.evidence())
    found = {r.data.tags.get("hasten.trial"): r.data for r in runs_of(client)}
    for run_ in search.candidates:
        data = found[run_.tags["hasten.trial"]]
        assert data.params == run_.params
        assert data.metrics == pytest.approx(run_.metrics)
    assert found[None].params == {**search.run.params, "model_name": NAME}
    assert found[None].metrics == pytest.approx(search.run.metrics)


def test_raw_measurements_are_artefacts_of_their_candidate(client: Any) -> None:
    (answer,) = [r for r in runs_of(client) if r.data.tags.get("hasten.trial") == "c1"]
    lines = Path(client.download_artifacts(answer.info.run_id, "evidence.jsonl")).read_text().splitlines()
    expected = [x for x in report_fixture.evidence() if x.get("trial") == "c1" and x["kind"] == "measurement"]
    assert [json.loads(line) for line in lines] == [TRIALS["c1"], *json.loads(json.dumps(expected))]


def test_report_evidence_and_decisions_are_artefacts_of_the_search(client: Any, tracked: Tracked) -> None:
    assert {f.path for f in client.list_artifacts(tracked.run_id)} == {"model", "report.html", "evidence.jsonl", "decisions.jsonl"}


def test_the_answer_is_in_the_registry_and_its_bundle_verifies(client: Any, tracked: Tracked, bundle: Path) -> None:
    assert tracked.model is not None
    version = client.get_model_version_by_alias(tracked.model, "answer")
    assert (str(version.version), version.run_id) == (tracked.version, tracked.run_id)
    assert {k: version.tags[k] for k in ("verdict", "drop_points", "speedup_over_lossless")} == {
        "verdict": "passed",
        "drop_points": "0.03",
        "speedup_over_lossless": json.dumps(report_fixture.answer()["speedup"]["over_lossless"]["value"]),
    }
    copy = Path(client.download_artifacts(version.run_id, "model/bundle"))
    assert {p.relative_to(copy) for p in copy.rglob("*") if p.is_file()} == {
        p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file()
    }
    assert all(proof.ok for proof in hasten.verify(copy))


def test_mlflow_loads_it_as_a_function_without_a_pickle(tracked: Tracked, bundle: Path, place: Place, client: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="mlflow.pyfunc needs pandas")
    folder = Path(client.download_artifacts(tracked.run_id, "model"))
    assert [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle")] == []
    loaded = mlflow.pyfunc.load_model(str(folder))
    x = np.ones((3, 2), np.float32)
    expected = hasten.predict(bundle, {"x": x})["y"]
    np.testing.assert_array_equal(loaded.predict({"x": x})["y"], expected)
    np.testing.assert_array_equal(loaded.predict(pandas.DataFrame({"x": list(x)}))["y"], expected)


def test_twice_is_once(client: Any, tracked: Tracked, bundle: Path, place: Place) -> None:
    before = {r.info.run_id for r in runs_of(client)}
    again = hasten.track(bundle, uri=place.uri)
    assert (again.new, again.run_id, again.model, again.version) == (False, tracked.run_id, tracked.model, tracked.version)
    assert {r.info.run_id for r in runs_of(client)} == before
    assert tracked.new


def test_half_a_search_is_replaced_by_a_whole_one(bundle: Path, fresh: Place) -> None:
    first = track(bundle, fresh, "half")
    client = mlflow.MlflowClient(fresh.uri, fresh.uri)
    client.update_run(first.run_id, status="RUNNING")  # as a writer leaves it that is killed before its last word
    second = track(bundle, fresh, "half")
    assert second.new
    assert first.run_id not in {r.info.run_id for r in runs_of(client, "half")}
    assert len(runs_of(client, "half")) == 1 + len(TRIALS)
    assert [v.run_id for v in client.search_model_versions()] == [second.run_id]


def test_a_search_without_an_answer_is_tracked_and_registers_nothing(fresh: Place) -> None:
    job = hasten.Job.make({"model": {"source": "m.onnx"}, "data": {"source": "d.npz"}})
    document = {**report_fixture.answer(), "verdict": "failed", "answer": None, "bundle": None}
    done = track(without_bundle(job, document, (), ()), fresh, "none")
    assert (done.model, done.version) == (None, None)
    found = mlflow.MlflowClient(fresh.uri, fresh.uri).get_run(done.run_id)
    assert (found.data.tags["hasten.verdict"], found.data.params["model.source"]) == ("failed", "m.onnx")


def test_this_process_stays_as_it_was(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    hasten.track(bundle, uri="here")
    assert dict(os.environ) == before
    assert {p.name for p in tmp_path.iterdir()} == {"here"}


SILENT = "from hasten.tracking import write; write._set_up()"


@pytest.mark.parametrize(("before", "client"), [("pass", "TelemetryClient"), (SILENT, "NoneType")])
def test_nothing_is_reported_home(tmp_path: Path, before: str, client: str) -> None:
    """Under pytest and in CI MLflow is silent by itself, so an ordinary process is asked: one that was told nothing, and ours.

    The first can report nothing either: it has no way to send.
    """
    unable = "import requests; requests.get = requests.post = None"
    ask = "from mlflow import telemetry; print(type(telemetry.get_telemetry_client()).__name__)"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], "HOME": str(tmp_path)}
    code = "; ".join([unable, before, ask])
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [client], done.stderr


@pytest.mark.parametrize("uri", ["file.txt/below", "sqlite:///file.txt", "sqlite:///folder", "http://127.0.0.1:9"])
def test_a_place_that_cannot_be_written_is_one_line_and_exit_code_3(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    Path("file.txt").write_text("not a database, and long enough to be taken for one: " + 100 * "no ")
    Path("folder").mkdir()
    code = cli.main(["track", str(bundle), "--uri", uri])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("error: tracking.uri: cannot be written")


def test_a_deleted_experiment_is_named(bundle: Path, fresh: Place) -> None:
    client = mlflow.MlflowClient(fresh.uri, fresh.uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(hasten.NotPossibleHere, match=r"tracking\.experiment: was deleted"):
        track(bundle, fresh, "gone")


def test_nothing_is_written_of_a_damaged_bundle(bundle: Path, fresh: Place, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    (damaged / "report.html").write_text("changed")
    with pytest.raises(hasten.BundleError, match=r"report\.html"):
        track(damaged, fresh, "x")
    assert runs_of(mlflow.MlflowClient(fresh.uri, fresh.uri), "x") == []
    assert list(mlflow.MlflowClient(fresh.uri, fresh.uri).search_registered_models()) == []


def test_the_command_line_says_where_it_is(bundle: Path, place: Place, tracked: Tracked, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["track", str(bundle), "--uri", place.uri, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["run_id"], document["model"], document["new"]) == (tracked.run_id, tracked.model, False)
    assert cli.main(["track", str(bundle), "--uri", place.uri]) == 0
    assert f"models:/{tracked.model}/{tracked.version}" in capsys.readouterr().out
