"""Care of the store: what goes, what stays because somebody uses it, and what is found to be damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hasten.core.locks import Lease
from hasten.core.store import Store
from hasten.core.store_care import Inventory, check, collect, inventory

DAY = 86400.0
SEARCH = """
import sys
from pathlib import Path
from hasten.core.store import Store

store = Store(Path(sys.argv[1]))
used = store.step("toy", {"name": "old and used"}, lambda folder: 1)
made = store.step("toy", {"name": "new"}, lambda folder: (folder / "file").write_text("new"))
with store.scratch() as scratch:
    (scratch / "half").write_text("under way")
    print("running", flush=True)
    sys.stdin.readline()
    assert (used.folder / "file").read_text() == "old and used"
    assert (made.folder / "file").read_text() == "new"
    assert (scratch / "half").read_text() == "under way"
"""
READER = """
import sys
from pathlib import Path
from hasten.core.store import Store

print("running", flush=True)
for round in range(40):
    store = Store(Path(sys.argv[1]))  # what the one before has used is free now
    for number in range(20):
        record = store.step("toy", {"number": number}, lambda folder: (folder / "file").write_text("x" * 100))
        assert len((record.folder / "file").read_text()) == 100
"""


def add(root: Path, name: str, *, age_days: float = 0.0, size: int | None = None) -> Path:
    """A step that was used last so long ago; it holds its name, or `size` bytes."""
    text = name if size is None else "x" * size
    folder = Store(root).step("toy", {"name": name}, lambda folder: (folder / "file").write_text(text)).folder
    used = time.time() - age_days * DAY
    os.utime(folder / "record.json", (used, used))
    return folder


def running(script: str, root: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", script, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    return child


def test_what_nobody_used_for_long_goes_and_the_rest_stays(tmp_path: Path) -> None:
    old, young = add(tmp_path, "old", age_days=31), add(tmp_path, "young", age_days=29)
    rehearsed = collect(tmp_path, keep_seconds=30 * DAY, dry_run=True)
    assert old.exists()
    done = collect(tmp_path, keep_seconds=30 * DAY)
    assert (done, len(done.removed), done.in_use) == (rehearsed, 1, 0)
    assert (old.exists(), young.exists()) == (False, True)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_checkpoints_that_nobody_went_on_with_go_and_fresh_ones_stay(tmp_path: Path) -> None:
    Store(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name, age in (("old", 40), ("new", 1)):
        (tmp_path / "checkpoints" / f"{name}.pt").write_bytes(b"x" * 100)
        os.utime(tmp_path / "checkpoints" / f"{name}.pt", (time.time() - age * DAY,) * 2)
    assert collect(tmp_path, keep_seconds=30 * DAY, dry_run=True).freed_bytes == 100
    assert (tmp_path / "checkpoints" / "old.pt").exists()
    assert collect(tmp_path, keep_seconds=30 * DAY).freed_bytes == 100
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["new.pt"]


def test_answers_of_teachers_that_nobody_asks_go(tmp_path: Path) -> None:
    Store(tmp_path)
    folder = tmp_path / "answers" / "abc" / "0"
    folder.mkdir(parents=True)
    for name, age in (("0", 40), ("1", 1)):
        (folder / f"{name}.npy").write_bytes(b"x")
        os.utime(folder / f"{name}.npy", (time.time() - age * DAY,) * 2)
    collect(tmp_path, keep_seconds=30 * DAY)
    assert [p.name for p in folder.iterdir()] == ["1.npy"]


def test_finding_a_step_is_a_use_of_it(tmp_path: Path) -> None:
    folder = add(tmp_path, "old", age_days=31)
    Store(tmp_path).step("toy", {"name": "old"}, lambda folder: pytest.fail("it is there"))
    collect(tmp_path, keep_seconds=30 * DAY)
    assert folder.exists()


def test_looking_is_no_use(tmp_path: Path) -> None:
    folder = add(tmp_path, "old", age_days=31)
    inventory(tmp_path)
    check(tmp_path)
    collect(tmp_path, keep_seconds=30 * DAY)
    assert not folder.exists()


def test_a_size_limit_takes_the_least_recently_used_first(tmp_path: Path) -> None:
    folders = {age: add(tmp_path, f"{age} days", age_days=age, size=100_000) for age in (3, 1, 2)}
    done = collect(tmp_path, keep_seconds=30 * DAY, max_bytes=250_000)
    assert {age: folder.exists() for age, folder in folders.items()} == {1: True, 2: True, 3: False}
    assert done.left_bytes == inventory(tmp_path).size_bytes <= 250_000
    assert done.freed_bytes > 100_000


def test_a_file_with_two_names_is_counted_once_and_freed_with_the_last(tmp_path: Path) -> None:
    first = add(tmp_path, "first", age_days=2, size=100_000)

    def link(folder: Path) -> None:
        (folder / "same").hardlink_to(first / "file")

    Store(tmp_path).step("toy", {"name": "second"}, link)
    assert 100_000 < inventory(tmp_path).size_bytes < 110_000
    assert collect(tmp_path, keep_seconds=DAY).freed_bytes < 10_000
    assert inventory(tmp_path).size_bytes > 100_000
    assert collect(tmp_path, keep_seconds=DAY, max_bytes=0).freed_bytes > 100_000


def test_what_a_running_process_has_used_stays_until_it_has_ended(tmp_path: Path) -> None:
    used, unused = add(tmp_path, "old and used", age_days=90), add(tmp_path, "old", age_days=90)
    search = running(SEARCH, tmp_path)
    done = collect(tmp_path, keep_seconds=30 * DAY, max_bytes=0)
    assert (used.exists(), unused.exists()) == (True, False)
    assert (len(done.removed), done.in_use) == (1, 2)
    assert len(inventory(tmp_path).users) == 1
    search.communicate("go\n")
    assert search.returncode == 0, "everything that it used was there"
    assert len(collect(tmp_path, keep_seconds=30 * DAY, max_bytes=0).removed) == 2
    assert inventory(tmp_path).steps == ()


def test_what_a_killed_process_has_used_may_go_with_what_it_left(tmp_path: Path) -> None:
    add(tmp_path, "old and used", age_days=90)
    search = running(SEARCH, tmp_path)
    search.kill()
    search.communicate()
    assert inventory(tmp_path).leftover_bytes == len("under way")
    assert len(collect(tmp_path, keep_seconds=30 * DAY, max_bytes=0).removed) == 2
    assert list((tmp_path / "tmp").iterdir()) == []


def test_steps_may_be_collected_while_processes_look_them_up(tmp_path: Path) -> None:
    """Whoever has been given a step can read its files, however often and whenever others collect."""
    for number in range(20):
        Store(tmp_path).step("toy", {"number": number}, lambda folder: (folder / "file").write_text("x" * 100))
    readers, removed, damaged = [running(READER, tmp_path) for _ in range(2)], 0, []
    while any(reader.poll() is None for reader in readers):
        removed += len(collect(tmp_path, keep_seconds=1e-6, max_bytes=0).removed)
        damaged += [result for result in check(tmp_path) if result.state == "damaged"]
    assert [reader.wait() for reader in readers] == [0, 0]
    assert removed > 20
    assert damaged == []


def flip(folder: Path) -> None:
    (folder / "file").write_text("naMe")


def rewrite(folder: Path) -> None:
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**record, "value": 5}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "file was changed": flip,
    "file is missing": lambda folder: (folder / "file").unlink(),
    "more was added": lambda folder: (folder / "more").write_text(""),
    "record.json was changed": rewrite,
    "record.json is missing or torn": lambda folder: (folder / "record.json").write_text("{"),
}


@pytest.mark.parametrize("sentence", DAMAGES)
def test_damage_is_found_and_removed_only_when_asked_to(tmp_path: Path, sentence: str) -> None:
    good, bad = add(tmp_path, "good"), add(tmp_path, "name")
    assert {result.state for result in check(tmp_path)} == {"ok"}
    DAMAGES[sentence](bad)
    for repair in (False, True):
        found = {result.step.folder: result for result in check(tmp_path, repair=repair)}
        assert (found[good].state, found[bad].state, found[bad].sentence) == ("ok", "damaged", sentence)
        assert (found[bad].removed, bad.exists(), good.exists()) == (repair, not repair, True)
    assert Store(tmp_path).step("toy", {"name": "name"}, lambda folder: "again").fresh


def test_records_of_before_sha256_are_not_checked_and_work(tmp_path: Path) -> None:
    folder = add(tmp_path, "name")
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({k: v for k, v in record.items() if k not in ("files", "digest")}))
    assert [result.state for result in check(tmp_path, repair=True)] == ["not checked"]
    assert not Store(tmp_path).step("toy", {"name": "name"}, lambda folder: 0).fresh


def test_a_writer_may_end_while_the_store_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its folder along between the look at its lease and the collection of what it left."""
    Store(tmp_path).step("toy", {}, lambda folder: (folder / "file").write_text("x"))
    (tmp_path / "tmp" / "1-ended").mkdir()

    def ended(folder: Path) -> None:
        shutil.rmtree(folder)

    monkeypatch.setattr(Lease, "opened_at", staticmethod(ended))
    found = Inventory(steps=(), users=(), leftover_bytes=0)
    monkeypatch.setattr("hasten.core.store_care.inventory", lambda root: found)
    assert collect(tmp_path, keep_seconds=0.0).removed == ()
    assert not (tmp_path / "tmp" / "1-ended").exists()
