"""Every failure is one line on standard error and an exit code; standard output stays clean."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hasten import cli
from hasten.core.errors import ExportError, HastenError, JobError, LimitsNotMet, MissingExtra, NotPossibleHere, WorkerError

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from hasten.core.seams import Forecast, Technique

@dataclass(frozen=True, kw_only=True)
class Nothing(Technique):
    \"\"\"Does nothing, faster.\"\"\"
    name: ClassVar[str] = "nothing"
    def fits(self, candidate, profile): return "does nothing"
    def expects(self, profile): return Forecast(speedup=1.0, seconds=0.0)
    def apply(self, candidate, context): return candidate
"""


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


NO_BUNDLE = "bundle: must be a folder, but got 'nowhere'. `hasten optimize ... --out FOLDER` writes one."
ONNX = ["optimize", "m.onnx", "--data", "d.npz"]
WRONG = [
    (["optimise"], "No such verb 'optimise'. Did you mean 'optimize'? See `hasten --help`"),
    (["optimize"], "Missing argument 'JOB.toml|MODEL.onnx|FILE.py:FUNCTION'. See `hasten optimize --help`"),
    (["optimize", "no.toml"], "job: must be a file that exists, but got 'no.toml'."),
    (ONNX[:2], "--data: must be given with a model. Add --data data.npz, a .parquet, a .csv, a folder or file.py:function."),
    ([*ONNX, "--set", "limits"], "--set: must be SECTION.KEY=VALUE, but got 'limits'. For example --set limits.max_drop=1.0."),
    ([*ONNX, "--set", "limits.max_dropp=1"], "limits.max_dropp: is not a key of the job. Did you mean 'limits.max_drop'?"),
    ([*ONNX, "--set", "model.source.x=1"], "model.source.x: is not a key of the job. `hasten show job` lists every key."),
    ([*ONNX, "--budget", "soon"], "search.budget: must be a duration, but got 'soon'. Write it like 90s, 5m or 1h30m."),
    ([*ONNX, "--threads", "0"], "Invalid value for '--threads': 0 is not in the range x>=1. See `hasten optimize --help`"),
    (["show", "jobb"], "name: must be a technique, a runtime, a metric or `job`, but got 'jobb'. Did you mean 'job'?"),
    (["verify", "nowhere"], NO_BUNDLE),
    (["predict", "nowhere", "x.png"], NO_BUNDLE),
    (["report", "nowhere"], NO_BUNDLE),
    (["serve", "nowhere"], NO_BUNDLE),
]


@pytest.mark.parametrize(("args", "message"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_wrong_request_is_answered_with_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *args) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HastenError("a", "b"), 1),
        (JobError("a", "b"), 2),
        (NotPossibleHere("a", "b"), 3),
        (ExportError("a", "b"), 3),
        (WorkerError("a", "b", cause="crash"), 3),
        (MissingExtra("a", "b"), 4),
        (LimitsNotMet("a", "b"), 5),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("by\nzero"), 1),
    ],
)
def test_every_error_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("hasten.api.why", fail)
    got, out, err = run(capsys, "why", "m.onnx", "--data", "d.npz")
    assert (got, out) == (code, "")
    if isinstance(error, HastenError):
        assert err == "error: a: b.\n"
    elif isinstance(error, ZeroDivisionError):
        assert err == "error: unexpected ZeroDivisionError: by zero: run again with --debug\n"
    else:
        assert "kept" in err


@pytest.mark.parametrize("args", [["--debug", "verify", "nowhere"], ["verify", "nowhere", "--debug"]])
def test_debug_shows_the_traceback_and_ends_with_the_same_line(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    code, _, err = run(capsys, *args)
    assert code == 2
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: bundle: ")


@pytest.mark.parametrize("before", [True, False])
def test_a_plugin_is_known_to_the_verb_that_follows_or_precedes_it(tmp_path: Path, before: bool) -> None:
    """In a process of its own: a plug-in stays known for the rest of one."""
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    option = ["--plugin", str(file)]
    args = [*option, "list", "techniques", "--json"] if before else ["list", "techniques", "--json", *option]
    result = subprocess.run([sys.executable, "-m", "hasten", *args], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert {"name": "nothing", "note": "graph", "what": "Does nothing, faster."} in json.loads(result.stdout)["techniques"]


def test_a_plugin_that_does_not_import_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    code, _, err = run(capsys, "list", "techniques", "--plugin", str(file))
    assert code == 2
    assert err == "error: --plugin broken.py: must import, but raised ZeroDivisionError: division by zero.\n"
