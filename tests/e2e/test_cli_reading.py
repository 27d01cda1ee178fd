"""`list`, `show`, `--help`, `--version`, and how a command line becomes a job."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hasten import cli
from hasten.cli import output, shared
from hasten.core.errors import JobError
from hasten.core.job import sections
from hasten.core.registry import find
from hasten.core.seams import Runtime, Technique
from hasten.measure.quality import METRICS


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert cli.main(args) == 0
    return capsys.readouterr().out


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--help")
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    from hasten import __version__

    assert run(capsys, "--version") == f"hasten {__version__}\n"


@pytest.mark.parametrize(("kind", "names"), [("techniques", find(Technique)), ("runtimes", find(Runtime)), ("metrics", METRICS)])  # type: ignore[type-abstract]
def test_list_names_everything_that_is_registered(capsys: pytest.CaptureFixture[str], kind: str, names: dict[str, object]) -> None:
    document = json.loads(run(capsys, "list", kind, "--json"))
    assert [entry["name"] for entry in document[kind]] == list(names)
    assert all(entry["what"] and entry["note"] for entry in document[kind])
    assert all(name in run(capsys, "list", kind) for name in names)


@pytest.mark.parametrize("name", [*find(Technique), *find(Runtime), *METRICS])  # type: ignore[type-abstract]
def test_show_explains_every_name_and_option(capsys: pytest.CaptureFixture[str], name: str) -> None:
    page = json.loads(run(capsys, "show", name, "--json"))
    assert page["title"].startswith(name)
    assert page["text"]
    assert all(option["what"] for section in page["sections"] for option in section["options"])


def test_show_job_has_every_key_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    page = json.loads(run(capsys, "show", "job", "--json"))
    shown = {section["title"].split("]")[0][1:]: {o["key"] for o in section["options"]} for section in page["sections"]}
    assert shown == {name: {k for k, f in model.model_fields.items() if not f.exclude} for name, model in sections().items()}
    assert all(option["what"] and option["type"] for section in page["sections"] for option in section["options"])
    assert "limits" in run(capsys, "show", "job")


def test_flags_win_over_the_job_file_and_set_wins_over_flags(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[model]\nsource = "m.onnx"\n[data]\nsource = "d.npz"\n[limits]\nmax_drop = 2.0\n[search]\nbudget = "1m"\n')
    nothing = {"data": None, "budget": None, "max_drop": None, "objective": None, "threads": None}
    assert shared.read_job(str(path), **nothing, settings=()).limits.max_drop == 2.0
    job = shared.read_job(
        str(path), data="e.npz", budget="90s", max_drop=1.0, objective="size", threads=1, settings=("limits.max_drop=0.25",)
    )
    assert (job.data.source, job.search.budget, job.limits.max_drop) == ("e.npz", 90.0, 0.25)
    assert (job.search.objective, job.target.threads, job.folder) == ("size", 1, tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b=0.5", 0.5),
        ("a.b=true", True),
        ('a.b="1"', "1"),
        ("a.b=word", "word"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        ("a.b=1\nc.d = 2", "1\nc.d = 2"),
    ],
)
def test_a_setting_is_toml_or_a_bare_word(text: str, value: object) -> None:
    assert shared.parse_settings([text]) == {"a.b": value}


@pytest.mark.parametrize("text", ["", "a", "a=1", "=1", "a.=1", ".b=1", "a b.c=1"])
def test_a_setting_without_section_and_key_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"SECTION\.KEY=VALUE"):
        shared.parse_settings([text])


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("examples/digits/job.toml", "digits"),
        ("examples/digits/fast.toml", "fast"),
        ("models/net.v2.onnx", "net.v2"),
        ("nets/resnet.py:build", "resnet"),
        ("package.models:build", "models"),
    ],
)
def test_the_default_folder_is_named_after_the_model(source: str, name: str) -> None:
    assert shared.model_name(source) == name


def test_the_json_document_is_one_line_that_any_parser_reads(capsys: pytest.CaptureFixture[str]) -> None:
    output.document(
        {"a": math.nan, "b": np.float32(0.5), "c": np.arange(3), "d": (1, None, True), "e": Path("x"), "f": math.inf, "g": "ä\n"}
    )
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {"a": None, "b": 0.5, "c": [0, 1, 2], "d": [1, None, True], "e": "x", "f": None, "g": "ä\n"}
