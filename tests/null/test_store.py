"""The store: each step is done once, by whoever comes first, and only what may have changed is tried again."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import worker_tasks

from hasten.core.errors import DataError, DiskFull, ExportError, HastenError, JobError, MissingExtra, NotPossibleHere, WorkerError
from hasten.core.need import need
from hasten.core.store import Store
from hasten.core.store_care import check, collect, inventory
from hasten.measure.worker import Worker

PROCESS = """
import os, sys
from pathlib import Path
from hasten.core.store import Store

store = Store(Path(sys.argv[1]))

def work(key):
    def inner(folder):
        (folder / "half").write_bytes(b"x" * 1000)
        if sys.argv[2] == "wait":
            print("working", flush=True)
            sys.stdin.readline()
        (folder / "whole").write_text(key)
        return {"by": os.getpid()}
    return inner

for key in sys.argv[3:]:
    record = store.step("toy", {"key": key}, work(key))
    assert (record.folder / "whole").read_text() == key
    print(record.fresh, record.value["by"], flush=True)
"""


def process(root: Path, how: str, *keys: str) -> subprocess.Popen[str]:
    """A process that does the steps `keys`; how: `wait` stops in the middle of each until it is told to go on, or `run`."""
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(root), how, *keys], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def until_somebody_waits(store: Store) -> None:
    while not any(event["event"] == "wait" for event in store.journal()):
        os.sched_yield()


def events(store: Store) -> Counter[str]:
    return Counter(event["event"] for event in store.journal())


def test_a_step_is_done_once_and_then_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.step("toy", {"a": 1}, lambda folder: {"size": (folder / "file").write_text("text")})
    again = store.step("toy", {"a": 1}, lambda folder: pytest.fail("it was done before"))
    assert (first.fresh, again.fresh) == (True, False)
    assert again.value == first.value == {"size": 4}
    assert (again.folder / "file").read_text() == "text"
    assert store.step("toy", {"a": 2}, lambda folder: None).fresh, "another identity is another step"


def test_the_second_process_waits_for_the_first_instead_of_doing_the_work_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = process(tmp_path, "wait", "a")
    assert line(first) == "working"
    second = process(tmp_path, "run", "a")
    until_somebody_waits(store)
    first.communicate("go\n")
    assert second.communicate()[0].split() == ["False", str(first.pid)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert events(store) == {"start": 1, "wait": 1, "finish": 1}


def test_when_the_first_is_killed_the_second_does_the_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = process(tmp_path, "wait", "a")
    assert line(first) == "working"
    second = process(tmp_path, "run", "a")
    until_somebody_waits(store)
    first.kill()
    assert second.communicate()[0].split() == ["True", str(second.pid)]
    assert first.wait() == -signal.SIGKILL
    assert events(store) == {"start": 2, "wait": 1, "finish": 1}
    assert inventory(tmp_path).leftover_bytes == 1000, "what the dead one had written"
    collect(tmp_path, keep_seconds=60)
    assert inventory(tmp_path).leftover_bytes == 0
    assert [list((tmp_path / place).iterdir()) for place in ("tmp", "locks")] == [[], []]
    assert [result.state for result in check(tmp_path)] == ["ok"]


def test_many_processes_at_once_do_each_step_once(tmp_path: Path) -> None:
    keys = [str(number) for number in range(12)]
    children = [process(tmp_path, "run", *keys[shift:], *keys[:shift]) for shift in (0, 0, 3, 6, 9)]
    told = [child.communicate()[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0] * 5
    assert sum(answer.startswith("True") for lines in told for answer in lines) == len(keys)
    counted = events(Store(tmp_path))
    assert (counted["start"], counted["finish"]) == (len(keys), len(keys))
    assert [result.state for result in check(tmp_path)] == ["ok"] * len(keys)


def test_processes_that_are_killed_leave_whole_steps_or_none(tmp_path: Path) -> None:
    keys = [str(number) for number in range(6)]
    for number, key in enumerate(keys):
        child = process(tmp_path, "wait", *keys)
        for _ in range(number):
            assert line(child).startswith("False"), "done before"
        assert line(child) == "working"
        assert child.stdin is not None
        if number % 2:  # killed while it writes, or just when it has been told to finish: whole or not at all
            child.stdin.write("go\n")
            child.stdin.flush()
        child.kill()
        child.communicate()
        process(tmp_path, "run", key).communicate()
    assert {result.state for result in check(tmp_path)} == {"ok"}
    assert len(inventory(tmp_path).steps) == len(keys)


FAILURES = [
    (WorkerError("w", "took too long", cause="timeout"), True),
    (WorkerError("w", "needed too much", cause="memory"), True),
    (WorkerError("w", "was ended by SIGKILL", cause="killed"), True),
    (WorkerError("w", "was ended by SIGSEGV", cause="crash"), False),
    (WorkerError("w", "raised ValueError", cause="error"), False),
    (MissingExtra("package 'x'", "is needed", package="no_such_package"), False),
    (ExportError("model", "has an operator that cannot be exported"), False),
    (NotPossibleHere("runtime", "lacks an operator"), False),
    (DataError("data", "must be finite", hint="Look at them"), False),
]


@pytest.mark.parametrize(
    ("error", "again"), FAILURES, ids=lambda v: f"{type(v).__name__}-{getattr(v, 'cause', '')}" if isinstance(v, Exception) else ""
)
def test_a_failure_is_kept_as_it_was_and_tried_again_only_where_its_cause_may_be_gone(
    tmp_path: Path, error: HastenError, again: bool
) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("worthless")
        raise error

    store = Store(tmp_path)
    with pytest.raises(type(error)):
        store.step("toy", {}, fails)
    (kept,) = inventory(tmp_path).steps
    assert kept.failure is not None
    assert kept.failure["message"] == str(error)
    assert (kept.retried, len(kept.files)) == (again, 1)
    if again:
        assert store.step("toy", {}, lambda folder: "better").fresh
        assert Store(tmp_path).step("toy", {}, fails).value == "better"
        return
    with pytest.raises(type(error)) as caught:
        Store(tmp_path).step("toy", {}, lambda folder: pytest.fail("it would fail again"))
    assert type(caught.value) is type(error)
    assert (str(caught.value), caught.value.exit_code, caught.value.hint) == (str(error), error.exit_code, error.hint)
    assert events(store)["start"] == 1


def test_an_error_of_a_plug_in_comes_back_as_what_it_is_to_us(tmp_path: Path) -> None:
    class Own(JobError):
        """Known to its plug-in alone."""

    def fails(folder: Path) -> None:
        raise Own("mine", "is wrong")

    for _ in range(2):
        with pytest.raises(JobError, match="mine: is wrong"):
            Store(tmp_path).step("toy", {}, fails)


def test_a_missing_package_is_tried_again_once_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(folder: Path) -> str:
        return str(need("freshly_installed").ANSWER)

    store = Store(tmp_path / "store")
    for _ in range(2):
        with pytest.raises(MissingExtra, match="pip install freshly_installed"):
            store.step("toy", {}, work)
    assert events(store)["start"] == 1, "it was not looked for again by doing the work"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "freshly_installed.py").write_text("ANSWER = 42")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert store.step("toy", {}, work).value == "42"


def test_threads_that_train_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def heard(patient: bool) -> str | None:
        with Worker("toy", patient=patient) as worker:
            return worker.call(worker_tasks.waits)

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert (heard(False), heard(True)) == (None, "PASSIVE")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert heard(True) == "ACTIVE"


@pytest.mark.parametrize(
    ("task", "cause", "again"),
    [
        (worker_tasks.killed_from_outside, "killed", True),
        (worker_tasks.memory_error, "memory", True),
        (worker_tasks.memory_error_in_a_librarys_words, "memory", True),
        (worker_tasks.sleep, "timeout", True),
        (worker_tasks.grow, "memory", True),
        (worker_tasks.segmentation_fault, "crash", False),
        (worker_tasks.value_error, "error", False),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_what_befalls_a_worker_is_its_cause(tmp_path: Path, task: Callable[..., None], cause: str, again: bool) -> None:
    def work(folder: Path) -> None:
        with Worker("toy", memory_limit_bytes=400_000_000) as worker:
            worker.call_within(0.5 if task is worker_tasks.sleep else None, task)

    for _ in range(2):
        with pytest.raises(WorkerError) as caught:
            Store(tmp_path).step("toy", {}, work)
        assert caught.value.cause == cause
    (kept,) = inventory(tmp_path).steps
    assert kept.failure is not None
    assert kept.failure["cause"] == cause
    assert events(Store(tmp_path))["start"] == (2 if again else 1)


@pytest.mark.parametrize("task", [worker_tasks.disk_full, worker_tasks.disk_full_in_a_plug_ins_words])
def test_a_full_disk_is_no_failure_of_the_step(tmp_path: Path, task: Callable[..., None]) -> None:
    def work(folder: Path) -> None:
        with Worker("toy") as worker:
            worker.call(task)

    store = Store(tmp_path)
    with pytest.raises(DiskFull, match="needs space on the disk"):
        store.step("toy", {}, work)
    assert inventory(tmp_path).steps == ()
    assert store.step("toy", {}, lambda folder: 1).fresh


def fill(root: Path) -> None:
    """Steps of 9 kB, without end."""
    store = Store(root)
    for number in itertools.count():
        store.step("toy", {"number": number}, lambda folder: (folder / "file").write_bytes(bytes(9000)))


@pytest.mark.skipif(shutil.which("mount") is None, reason="a small disk is simulated with mount")
def test_a_disk_that_fills_up_in_the_middle_leaves_the_store_whole(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(DiskFull):
            fill(tmp_path)
        kept = len(inventory(tmp_path).steps)
        assert kept > 0
        assert {result.state for result in check(tmp_path)} == {"ok"}
        collect(tmp_path, keep_seconds=60, max_bytes=50_000)
        assert Store(tmp_path).step("toy", {"number": kept}, lambda folder: (folder / "file").write_bytes(bytes(9000))).fresh
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_an_interrupt_is_no_failure_of_the_step(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.step("toy", {}, interrupted)
    assert inventory(tmp_path).steps == ()
    assert store.step("toy", {}, lambda folder: 1).fresh


@pytest.mark.parametrize(
    "tear", [lambda p: p.write_text('{"kind": "to'), lambda p: p.write_text("[]"), Path.unlink], ids=["half", "list", "gone"]
)
def test_a_torn_record_counts_as_none(tmp_path: Path, tear: Callable[[Path], Any]) -> None:
    folder = Store(tmp_path).step("toy", {}, lambda folder: 1).folder
    tear(folder / "record.json")
    assert Store(tmp_path).step("toy", {}, lambda folder: 2).value == 2
    assert Store(tmp_path).step("toy", {}, lambda folder: 3).value == 2


def test_a_torn_line_of_the_journal_hides_only_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.step("toy", {}, lambda folder: 1)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"event": "sta' + json.dumps({"event": "finish"}) + "\n")
    store.step("toy", {"b": 1}, lambda folder: 1)
    assert events(store) == {"start": 2, "finish": 2}


def test_a_store_that_is_let_go_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.scratch() as folder:
        (folder / "file").write_text("text")
        assert inventory(tmp_path).users
    del store
    assert inventory(tmp_path).users == ()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_forked_child_does_not_end_its_parents_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.scratch() as folder:
        if (child := os.fork()) == 0:
            vars(store).clear()  # the child lets go of its copy
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert folder.is_dir()
        assert len(inventory(tmp_path).users) == 1
