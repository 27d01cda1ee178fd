"""`hasten store`: what is kept, what goes, and what was damaged."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hasten import cli
from hasten.core.errors import WorkerError
from hasten.core.store import Store


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with two steps, one of them old, and two failures."""
    store = Store(tmp_path)
    old = store.step("tensors", {}, lambda folder: (folder / "0.npy").write_bytes(bytes(3_000_000))).folder
    used = time.time() - 40 * 86400
    os.utime(old / "record.json", (used, used))
    store.step("program", {}, lambda folder: (folder / "model.onnx").write_bytes(bytes(1_000_000)))
    for number, cause in enumerate(("timeout", "crash")):

        def fails(folder: Path, cause: Any = cause) -> None:
            raise WorkerError("openvino", "was ended", cause=cause)

        with pytest.raises(WorkerError):
            store.step("program", {"number": number}, fails)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.main(["store", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_ls_shows_kinds_and_failures_with_their_cause(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ls", "--store", str(place))
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["tensors", "1", "0", "3", "MB", "40", "days", "ago"] in rows
    assert ["program", "3", "2", "1", "MB", "just", "now"] in rows
    assert ["program", "timeout", "yes", "openvino:", "was", "ended."] in rows
    assert ["program", "crash", "no", "openvino:", "was", "ended."] in rows


def test_ls_as_one_document(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "ls", "--store", str(place), "--json")[1])
    assert [(k["kind"], k["steps"], k["failed"]) for k in document["kinds"]] == [("tensors", 1, 0), ("program", 3, 2)]
    assert document["size_bytes"] == sum(k["size_bytes"] for k in document["kinds"])
    assert {(f["cause"], f["retried"]) for f in document["failures"]} == {("timeout", True), ("crash", False)}
    assert (document["users"], document["leftover_bytes"]) == (0, 0)


def test_gc_removes_what_is_old_and_more_to_a_size(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "gc", "--store", str(place), "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, "1 step, 3 MB would be freed; 1 MB stay.")
    document = json.loads(run(capsys, "gc", "--store", str(place), "--json")[1])
    assert [k["kind"] for k in document["removed"]] == ["tensors"]
    document = json.loads(run(capsys, "gc", "--store", str(place), "--max-size", "0.5MB", "--json")[1])
    assert document["left_bytes"] <= 500_000
    assert json.loads(run(capsys, "ls", "--store", str(place), "--json")[1])["size_bytes"] == document["left_bytes"]


def test_verify_exits_with_2_while_damage_is_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify", "--store", str(place))[0] == 0
    (model,) = place.glob("objects/*/*/model.onnx")
    model.write_bytes(b"\x01" + bytes(999_999))
    code, out, _ = run(capsys, "verify", "--store", str(place))
    assert code == 2
    assert "model.onnx was changed  kept: --repair removes it" in out
    code, out, _ = run(capsys, "verify", "--store", str(place), "--repair")
    assert (code, model.exists()) == (0, False)
    assert json.loads(run(capsys, "verify", "--store", str(place), "--json")[1]) == {"ok": 3, "damaged": 0, "not_checked": 0, "found": []}


WRONG = [
    (["ls", "--store", "nowhere"], "--store: must be the folder of a store, but got 'nowhere'. It is what HASTEN_STORE or --store named."),
    (["gc", "--keep", "long"], "--keep: must be a duration, but got 'long'. Write it like 90s, 5m or 1h30m."),
    (["gc", "--max-size", "5 elephants"], "--max-size: must be a size, but got '5 elephants'. Write it like 200MB, 5GB or 1.5GiB."),
    (["clean"], "No such command 'clean'. See `hasten store --help`"),
]


@pytest.mark.parametrize(("args", "message"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_wrong_request_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *args) == (2, "", f"error: {message}\n")
    assert not (tmp_path / "nowhere").exists()
