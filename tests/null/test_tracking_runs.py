"""Evidence becomes runs without loss of what a person would ask for, and a place for them is understood or refused. No MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_fixture

from hasten import optimize
from hasten.core.errors import JobError, MissingExtra
from hasten.core.job import Job
from hasten.core.need import has
from hasten.tracking.place import Place
from hasten.tracking.runs import Search

EVIDENCE = report_fixture.evidence()
TRIALS = {line["id"]: line for line in EVIDENCE if line["kind"] == "trial"}
SEARCH = Search.of(EVIDENCE)
RUNS = {run.tags["hasten.trial"]: run for run in SEARCH.candidates}


def test_every_candidate_has_one_run_whatever_its_fate() -> None:
    assert {key: run.params["fate"] for key, run in RUNS.items()} == {key: line["fate"] for key, line in TRIALS.items()}
    assert len(SEARCH.candidates) == len(TRIALS)
    assert {key for key, run in RUNS.items() if run.failed} == {key for key, line in TRIALS.items() if line["fate"] == "failed"}


@pytest.mark.parametrize(
    ("metric", "of"),
    [
        ("latency_seconds", lambda t: t["latency"]),
        ("speedup", lambda t: t["speedup"]),
        ("drop_points", lambda t: t["drop"]),
        ("throughput_per_second", lambda t: t["throughput"]),
        ("certified_drop_points", lambda t: (t["verdict"] or {}).get("drop")),
    ],
)
def test_an_interval_is_three_metrics_and_what_is_unknown_is_none(metric: str, of: object) -> None:
    assert callable(of)
    for key, line in TRIALS.items():
        found = {part: RUNS[key].metrics.get(metric + part) for part in ("", "_low", "_high")}
        interval = of(line) or dict.fromkeys(("value", "low", "high"))
        assert found == {"": interval["value"], "_low": interval["low"], "_high": interval["high"]}, key


def test_parameters_are_what_was_tried() -> None:
    run = RUNS["c1"]
    assert run.params["recipe"] == "export > simplify > static-int8(calibration=minmax)"
    assert (run.params["runtime"], run.params["knobs.threads"], run.params["facts"]) == ("onnxruntime", "2", "int8-weights")
    assert RUNS["e1"].params["reason"] == TRIALS["e1"]["reason"]


def test_raw_measurements_stand_below_their_own_candidate() -> None:
    for key, run in RUNS.items():
        own = [line for line in EVIDENCE if line["kind"] == "measurement" and line["trial"] == key]
        assert run.texts["evidence.jsonl"].count("\n") == 1 + len(own)


def test_the_search_itself_holds_the_answer_the_machine_and_the_account_of_time() -> None:
    run, account = SEARCH.run, next(line for line in EVIDENCE if line["kind"] == "run")["account_seconds"]
    assert (run.tags["hasten.verdict"], run.tags["hasten.answer"]) == ("passed", "c1")
    assert run.params["machine.cpu"] == "AMD EPYC 7B13"
    assert run.params["versions.torch"] == "2.13.0"
    assert run.params["model.source"] == "model.py:mobilenet"
    assert {name: run.metrics[f"account_seconds/{name}"] for name in account} == account
    assert SEARCH.ended - SEARCH.started == pytest.approx(1000 * sum(account.values()), abs=1)
    assert run.texts["decisions.jsonl"].count("\n") == sum(line["kind"] == "decision" for line in EVIDENCE)


def test_a_search_has_one_name_and_another_search_another() -> None:
    assert Search.of(report_fixture.evidence()).id == SEARCH.id
    assert Search.of(report_fixture.evidence(seed=8)).id != SEARCH.id


def test_the_least_evidence_is_enough() -> None:
    search = Search.of(report_fixture.minimal()[1])
    assert len(search.candidates) == 1
    assert search.answer == {}


@pytest.mark.parametrize("name", ["runs", "mit leer é", "a#b", "a%20b", "a?b"])
def test_a_folder_is_a_database_in_it_and_any_name_comes_back(tmp_path: Path, name: str) -> None:
    place = Place.of(name, tmp_path)
    assert place.database == tmp_path / name / "mlflow.db"
    assert Place.of(place.uri) == place
    place.prepare()
    assert place.database.is_file()


def test_a_relative_file_starts_at_the_folder_of_the_job(tmp_path: Path) -> None:
    assert Place.of("sqlite:///runs/m.db", tmp_path).database == tmp_path / "runs/m.db"
    assert Place.of(f"sqlite:///{tmp_path}/m.db", Path("/elsewhere")).database == tmp_path / "m.db"


def test_without_a_place_mlflows_own_variable_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert Place.of(None) == Place(uri="http://127.0.0.1:5000")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Place.of(None).database == Path("mlflow.db").absolute()


@pytest.mark.parametrize("text", ["", "postgresql://u:secret@host/db", "databricks://x", "http://", "http://host:port", "http://[::1"])
def test_another_place_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(JobError, match=r"tracking.uri: must be a folder, sqlite:///FILE, or the http\(s\) address") as error:
        Place.of(text)
    assert "secret" not in str(error.value)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(JobError, match="MLFLOW_TRACKING_PASSWORD") as error:
        Place.of("https://me:secret@host")
    assert "secret" not in str(error.value)


def test_where_a_search_is_written_down_does_not_change_what_was_asked() -> None:
    content = {"model": {"source": "m.onnx"}, "data": {"source": "d.npz"}}
    assert Job.make({**content, "tracking": {"uri": "runs"}}).digest() == Job.make(content).digest()


@pytest.mark.skipif(has("mlflow"), reason="the extra is installed")
def test_without_the_extra_a_search_that_is_to_be_tracked_does_not_begin() -> None:
    job = Job.make({"model": {"source": "none.onnx"}, "data": {"source": "none.npz"}, "tracking": {"uri": "runs"}})
    with pytest.raises(MissingExtra, match=r'`pip install "hasten\[mlflow\]"`'):
        optimize(job)
