"""`hasten predict --many --workers`: the very parts that one machine gives, whoever answers and whatever dies."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("onnx")
pytest.importorskip("ray", reason="the extra `ray` is not installed")

import bundles
import faulty_runtime
import ray_helpers

from hasten import api
from hasten.batch import sources
from hasten.batch.nodes_ray import Nodes
from hasten.batch.run import Progress
from hasten.bundle.write import write
from hasten.core.errors import BundleError, WorkerError

pytestmark = pytest.mark.slow

_TOGETHER = 5


@pytest.fixture(scope="module")
def cluster(faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU each, which know the runtime `faulty` and hold it up at a gate; this process is connected."""
    import ray

    folder = tmp_path_factory.mktemp("nodes")
    gate = folder / "gate"
    os.mkfifo(gate)
    env = {faulty_runtime.GATES[-3.0]: str(gate)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ray_helpers.cluster(num_cpus=1, ray_client_server_port=port, env_vars=env) as made:
        made.gate, made.client = gate, f"ray://127.0.0.1:{port}"
        ray_helpers.add(made, folder / "store", env=env, num_cpus=1)
        ray.init(made.address, log_to_driver=False, logging_level=logging.ERROR)
        yield made
        ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bundle`, of pictures; `in`: 40 of them, one that is none, and a table that cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "parts").mkdir()
    write(bundles.picture_contents(folder / "parts"), folder / "bundle")
    (folder / "in").mkdir()
    for number, picture in enumerate(bundles.pictures(40)):
        (folder / "in" / f"{number:02d}.png").write_bytes(b"no picture" if number == 7 else picture)
    (folder / "in" / "broken.npz").write_bytes(b"no arrays")
    return folder


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PICTURES_TOGETHER", _TOGETHER)
    monkeypatch.setattr(sources, "ROWS", _TOGETHER)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of the results; the journal's lines sorted, since parts are finished in any order."""
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    found["journal.jsonl"] = b"\n".join(sorted(found["journal.jsonl"].splitlines()))
    return found


def stopped_at(rows: int) -> Any:
    """What interrupts a run that has come so far."""

    def tell(at: Progress) -> None:
        if at.rows >= rows:
            raise KeyboardInterrupt

    return tell


@pytest.mark.parametrize("form", ["npz", "jsonl"])
def test_the_parts_are_those_of_one_machine(cluster: Any, folder: Path, tmp_path: Path, form: Any) -> None:
    here = api.predict_many(folder / "bundle", folder / "in", tmp_path / "here", form=form)
    there = api.predict_many(folder / "bundle", folder / "in", tmp_path / "there", form=form, workers="ray")
    assert (here["rows"], here["failed"], len(here["parts"])) == (41, 2, 9)
    assert there.pop("nodes") in (1, 2), "one may have been quicker than the other was ready"
    assert there == here
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_every_node_answers_and_slices_are_read_as_they_are_wanted(cluster: Any, faulty: Path) -> None:
    """Who has the first slice is held up with it and one more, until all others are answered."""
    count, read, ahead = 12, 0, []

    def pieces() -> Iterator[sources.Slice]:
        nonlocal read
        for number in range(count):
            read += 1
            values = np.full((1, 2), number or -3.0, np.float32)
            yield sources.Slice(unit=0, number=number, last=number == count - 1, names=["x"], rows=[number], inputs={"": values})

    seen = []
    opener = threading.Thread(target=lambda: cluster.gate.open("wb").close())
    with Nodes(faulty, "ray") as nodes:
        for answered in nodes.answers(pieces()):
            seen.append(answered.number)
            ahead.append(read - len(seen))
            if len(seen) == count - 2:
                assert nodes.num_nodes == 1
                opener.start()
        assert nodes.num_nodes == 2
    opener.join()
    assert sorted(seen) == list(range(count))
    assert max(ahead) < 2 * 2, "two an actor, and one of them is answered"


def test_a_table_that_is_mapped_travels(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    bundle = write(bundles.null_contents(tmp_path / "parts"), tmp_path / "null")
    np.save(tmp_path / "in.npy", np.ones((4 * _TOGETHER + 1, 2), np.float32))
    here = api.predict_many(bundle, tmp_path / "in.npy", tmp_path / "here")
    there = api.predict_many(bundle, tmp_path / "in.npy", tmp_path / "there", workers="ray")
    assert len(here["parts"]) == 5
    assert there["parts"] == here["parts"]
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.parametrize(("first", "second"), [("ray", None), (None, "ray")])
def test_what_one_began_the_other_finishes(cluster: Any, folder: Path, tmp_path: Path, first: str | None, second: str | None) -> None:
    whole = api.predict_many(folder / "bundle", folder / "in", tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        api.predict_many(folder / "bundle", folder / "in", out, workers=first, tell=stopped_at(3 * _TOGETHER))
    kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 3 <= len(kept) < len(whole["parts"])
    assert not (out / "manifest.json").exists()
    api.predict_many(folder / "bundle", folder / "in", out, workers=second)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished is not written again"
    assert contents(out) == contents(tmp_path / "whole")
    again = api.predict_many(folder / "bundle", folder / "in", out, workers=second)
    assert again == {**whole, **({"nodes": 0} if second else {})}, "nothing is left to do"


def test_a_killed_actor_loses_and_doubles_nothing(cluster: Any, faulty: Path, tmp_path: Path) -> None:
    """The third slice waits at a gate; its process is killed there, and the next one that has it is let through."""
    values = np.arange(16 * _TOGETHER, dtype=np.float32).reshape(-1, 2)
    values[2 * _TOGETHER, 0] = -3.0
    np.save(tmp_path / "in.npy", values)
    opener = threading.Thread(target=lambda: cluster.gate.open("wb").close())

    def tell(at: Progress) -> None:
        # The other actor answers all that there is but what the held one has, which is the held slice and at most one more.
        if at.rows >= 6 * _TOGETHER and opener.ident is None:
            with cluster.gate.open("wb"):  # now somebody is at it
                held = at_gate(cluster.gate)
                held.kill()
                held.wait()
            opener.start()

    document = api.predict_many(faulty, tmp_path / "in.npy", tmp_path / "out", workers="ray", tell=tell)
    opener.join()
    parts = [dict(np.load(tmp_path / "out" / line["part"])) for line in document["parts"]]
    assert np.concatenate([part["row"] for part in parts]).tolist() == list(range(len(values)))
    np.testing.assert_array_equal(np.concatenate([part["y"] for part in parts]), 2 * values)
    assert len((tmp_path / "out" / "journal.jsonl").read_text().splitlines()) == len(parts) == 8


def at_gate(gate: Path) -> psutil.Process:
    """Who reads from it."""
    while True:
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and any(fd.resolve() == gate for fd in Path(f"/proc/{process.pid}/fd").iterdir()):
                    return process
            except OSError:  # it has ended, or is not ours
                continue


def test_a_slice_that_always_kills_ends_the_run_and_is_named(cluster: Any, faulty: Path, tmp_path: Path) -> None:
    values = np.ones((6 * _TOGETHER, 2), np.float32)
    values[4 * _TOGETHER] = faulty_runtime.CRASH
    np.save(tmp_path / "in.npy", values)
    with pytest.raises(WorkerError, match=rf"^workers: were lost 3 times while they answered in\.npy, row {4 * _TOGETHER}: ") as caught:
        api.predict_many(faulty, tmp_path / "in.npy", tmp_path / "out", workers="ray")
    assert "\n" not in str(caught.value)
    lines = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
    assert lines, "what was finished stays"
    assert {json.loads(line)["slice"] for line in lines} <= {0, 1, 2, 3, 5}


def test_an_error_of_the_bundle_is_that_of_one_machine(cluster: Any, folder: Path, tmp_path: Path) -> None:
    """A file that was changed is found where it is loaded."""
    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    program = next(path for path in (tmp_path / "bundle" / "program").iterdir() if path.is_file())
    program.write_bytes(program.read_bytes()[:-1])
    said = []
    for workers in (None, "ray"):
        with pytest.raises(BundleError) as caught:
            api.predict_many(tmp_path / "bundle", folder / "in", tmp_path / f"out-{workers}", workers=workers)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("own", [False, True])
def test_a_killed_run_goes_on_with_the_same_command(cluster: Any, tmp_path: Path, own: bool) -> None:
    """kill -9 in the middle. own: of one that started its Ray; otherwise of one at the door of a cluster."""
    (tmp_path / "parts").mkdir()
    bundle = write(bundles.null_contents(tmp_path / "parts"), tmp_path / "null")
    (tmp_path / "in").mkdir()
    for number in range(100):
        np.save(tmp_path / "in" / f"{number:03d}.npy", np.full((3, 2), number, np.float32))
    out, journal = tmp_path / "out", tmp_path / "out" / "journal.jsonl"
    command = [sys.executable, "-m", "hasten", "predict", str(bundle), "--many", str(tmp_path / "in"), str(out), "--json"]
    command += ["--workers", "ray" if own else cluster.client]
    env = {**os.environ, "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "1"}  # seconds that the cluster waits for a client that has gone
    process = subprocess.Popen(command, env=env)
    while process.poll() is None and not (journal.exists() and len(journal.read_text().splitlines()) >= 5):
        pass
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*.npz")}
    assert not (out / "manifest.json").exists()

    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["rows"], len(document["parts"])) == (300, 100)
    assert document["nodes"] == 1 if own else document["nodes"] >= 1
    noted = [json.loads(line)["part"] for line in journal.read_text().splitlines()]
    assert sorted(noted) == [line["part"] for line in document["parts"]], "each part once"
    assert sum(path.stat().st_mtime_ns != when for path, when in before.items()) <= 1, "at most what was being noted when it was killed"
    api.predict_many(bundle, tmp_path / "in", tmp_path / "here")
    assert contents(out) == contents(tmp_path / "here")
