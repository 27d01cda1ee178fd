"""Several processes run one program: they answer what one would, and one that ends takes no request along."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import httpx
import numpy as np
import psutil
import pytest
import serving
from faulty_runtime import CRASH, FAIL
from faulty_server import INFER, ask, asked, outputs, save

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.errors import BundleError, HastenError, JobError, NotPossibleHere, ReplicaLost
from hasten.core.machine import core_numbers, usable_cores
from hasten.serve import process, staffing
from hasten.serve.app import create_app
from hasten.serve.reload import footprint
from hasten.serve.replicas import Replicas, part_of
from hasten.serve.staffing import Staffing

pytest.importorskip("prometheus_client", reason="pip install 'hasten[serve]'")
LOAD = "/v2/repository/models/m/load"


def ready(url: str) -> float:
    return serving.metric(url, "hasten_replicas", model="m")


# What they answer ---------------------------------------------------------------------------------------------------------


@contextmanager
def pair(made: Path, count: int = 2) -> Iterator[tuple[Bundle, Bundle]]:
    """A bundle whose program runs here, and one whose program runs in processes."""
    with Bundle.open(made) as here, Bundle.open(made) as there:
        there.use(Replicas(there, count))
        yield here, there


@pytest.mark.parametrize("kind", ["pictures", "fixed batch", "tensors", "fixed size"])
def test_they_answer_what_this_process_would_to_the_bit(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    if kind == "tensors":
        made = write(bundles.tensor_contents(tmp_path), tmp_path / "out")
        cases = [serving.tensors(count) for count in (1, 3, 50)]
    else:
        signature = bundles.save_classifier(tmp_path / "model.onnx", batch=4 if kind == "fixed batch" else None)
        contents = bundles.contents(tmp_path, signature, bundles.Samples(inputs={"": bundles.pictures(5)}), preprocess=bundles.PREPROCESS)
        facts = frozenset({"batch-dependent"}) if kind == "fixed size" else frozenset()
        made = write(replace(contents, candidate=replace(contents.candidate, facts=facts)), tmp_path / "out")
        shapes = [(count, 3, bundles.SIDE, bundles.SIDE) for count in (1, 6, 300, 2)]
        cases = [{"pixels": rng.normal(size=shape).astype(np.float32)} for shape in shapes]
    with pair(made) as (here, there), ThreadPoolExecutor(2) as pool:
        for case, got in zip(cases * 5, pool.map(there.run, cases * 5), strict=True):
            want = here.run(case)
            assert list(got) == list(want)
            for name in want:
                assert got[name].dtype == want[name].dtype
                np.testing.assert_array_equal(got[name], want[name])
        np.testing.assert_equal(there.run_as_certified(cases[0]), here.run_as_certified(cases[0]))


def test_an_answer_stays_when_the_next_one_comes(faulty: Path) -> None:
    with pair(faulty, count=1) as (_, there):
        first, second = ({"x": np.full((3, 2), value, np.float32)} for value in (1, 5))
        answers = [there.run(first)["y"], there.run(second)["y"]]
        np.testing.assert_array_equal(answers[0], np.full((3, 2), 2))
        np.testing.assert_array_equal(answers[1], np.full((3, 2), 10))


def test_what_a_program_raises_reaches_who_asked_and_ends_nothing(faulty: Path) -> None:
    with pair(faulty, count=1) as (_, there):
        for _ in range(3):
            with pytest.raises(HastenError, match=r"program: raised ZeroDivisionError\."):
                there.run({"x": np.full((1, 2), FAIL, np.float32)})
            assert there.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]


def test_a_process_that_cannot_load_says_why_and_none_is_left(faulty: Path, tmp_path: Path) -> None:
    other = shutil.copytree(faulty, tmp_path / "other")
    bundle = Bundle.open(other)
    (other / "program/factor").write_text("3")
    with pytest.raises(BundleError, match="program/factor: was changed after it was written"):
        Replicas(bundle, 2)
    shutil.rmtree(other)
    shutil.copytree(save(tmp_path / "three", factor=3), other)
    with pytest.raises(BundleError, match="bundle: is another one now than the one in service"):
        Replicas(bundle, 2)
    assert psutil.Process().children() == []


def test_a_call_that_ends_its_process_is_lost_and_others_are_not(faulty: Path) -> None:
    with pair(faulty) as (_, there):
        with pytest.raises(ReplicaLost, match="was lost with the process that computed it, which was ended by SIGSEGV"):
            there.run({"x": np.full((1, 2), CRASH, np.float32)})
        for _ in range(5):
            assert there.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]


def test_a_process_that_does_not_answer_is_ended_and_replaced(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE_SECONDS", 3.0)
    with pair(faulty, count=1) as (_, there):
        (child,) = psutil.Process().children()
        child.suspend()
        with pytest.raises(ReplicaLost, match="ended by SIGKILL"):
            there.run({"x": np.ones((1, 2), np.float32)})
        assert there.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]
        assert child not in psutil.Process().children()


# The server ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"replicas": 2}, {"isolate": True}], ids=["two", "one"])
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_and_no_memory_is_left_whatever_ends_the_server(faulty: Path, options: dict[str, Any], kind: signal.Signals) -> None:
    names = set(os.listdir("/dev/shm"))
    with serving.process(f"m={faulty}", **options) as (server, (url,)):
        children = serving.family(server)
        assert len(children) == options.get("replicas", 1)
        assert outputs(ask(url, (1, 2), (3, 4))) == [2, 4, 6, 8]
        assert ready(url) == len(children)
        server.send_signal(kind)
        assert server.wait(30) == (-kind if kind == signal.SIGKILL else 0)
        assert psutil.wait_procs(children, timeout=30)[1] == []
        if kind == signal.SIGTERM:
            assert server.communicate() == ("stopped\n", "")
    assert set(os.listdir("/dev/shm")) == names


def test_who_was_taken_is_answered_when_all_its_processes_are_told_to_stop(faulty: Path, gates: dict[float, Path]) -> None:
    """As an init system does it, which tells the whole group. A server that is killed meanwhile leaves none of them in its call."""
    for kill in (False, True):
        with serving.process(f"m={faulty}", replicas=2) as (server, (url,)), ThreadPoolExecutor(1) as pool:
            children = serving.family(server)
            first = pool.submit(ask, url, (-3, 1))
            with gates[-3].open("wb"):  # its call is under way
                for one in (*children, server):
                    one.send_signal(signal.SIGTERM)
                if kill:
                    server.kill()
                    assert psutil.wait_procs(children, timeout=30)[1] == []
            if kill:
                assert isinstance(first.exception(), httpx.HTTPError)
            else:
                assert outputs(first.result()) == [-6, 2]
                assert server.wait(30) == 0
                assert psutil.wait_procs(children, timeout=30)[1] == []


def test_a_request_computes_while_another_does(faulty: Path, gates: dict[float, Path]) -> None:
    with serving.process(f"m={faulty}", replicas=2) as (_, (url,)), ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, url, (-3, 1))
        with gates[-3].open("wb"):
            second = pool.submit(ask, url, (-4, 1))
            with gates[-4].open("wb"):  # both calls are under way, or this would not end
                pass
        assert [outputs(first.result()), outputs(second.result())] == [[-6, 2], [-8, 2]]


def test_a_killed_replica_takes_no_request_along(faulty: Path, gates: dict[float, Path]) -> None:
    """The one under way is computed by the other one, and the killed one comes back."""
    with serving.process(f"m={faulty}", replicas=2) as (server, (url,)), ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, url, (-3, 1))
        with gates[-3].open("wb"):
            (busy,) = _inside(server, gates[-3])
            busy.kill()
            serving.until(lambda: any(one != busy for one in _inside(server, gates[-3])), "the other one computes it")
            assert httpx.get(f"{url}/v2/health/ready").status_code == 200, "one is left"
        assert outputs(first.result()) == [-6, 2]
        serving.until(lambda: ready(url) == 2, "both answer again")
        assert serving.metric(url, "hasten_replica_restarts_total") == 1
        assert len(serving.family(server)) == 2


def test_the_only_replica_comes_back_and_answers_who_waited(faulty: Path, gates: dict[float, Path]) -> None:
    with serving.process(f"m={faulty}", isolate=True) as (server, (url,)), ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, url, (-3, 1))]
        with gates[-3].open("wb"):
            waiting += [pool.submit(ask, url, (k, k)) for k in range(2)]
            serving.until(lambda: serving.metric(url, "hasten_queue_length") == 2, "two wait")
            hurried = pool.submit(ask, url, (1, 1), timeout=50_000_000)
            serving.until(lambda: serving.metric(url, "hasten_queue_length") == 3, "three wait")
            for one in serving.family(server):
                one.kill()
            serving.until(lambda: ready(url) == 0, "none answers")
            assert httpx.get(f"{url}/v2/health/ready").status_code == 503
            late = ask(url, (1, 1), timeout=1000)
            assert (late.status_code, int(late.headers["retry-after"]) >= 1) == (503, True), "it cannot be there in a millisecond"
            serving.until(lambda: bool(_inside(server, gates[-3])), "it is back, and computes what was lost")
        assert [outputs(one.result()) for one in (*waiting, hurried)] == [[-6, 2], [0, 0], [2, 2], [2, 2]]
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200


def test_a_request_that_ends_processes_is_refused_and_its_company_is_answered(faulty: Path, gates: dict[float, Path]) -> None:
    with serving.process(f"m={faulty}", replicas=2) as (_, (url,)), ThreadPoolExecutor(8) as pool:
        held = [pool.submit(ask, url, (-3, 1))]
        with gates[-3].open("wb"):
            held.append(pool.submit(ask, url, (-4, 1)))
            with gates[-4].open("wb"):  # both are busy
                company = [pool.submit(ask, url, (k, k)) for k in range(3)]
                poison = pool.submit(ask, url, (CRASH, 0))
                serving.until(lambda: serving.metric(url, "hasten_queue_length") == 4, "all wait")
        assert [outputs(one.result()) for one in held] == [[-6, 2], [-8, 2]]
        reply = poison.result()
        assert reply.status_code == 503
        assert "was lost with the process that computed it, which was ended by SIGSEGV" in reply.json()["error"]
        assert [outputs(one.result()) for one in company] == [[0, 0], [2, 2], [4, 4]]
        assert serving.metric(url, "hasten_requests_total", outcome="failed") == 1
        serving.until(lambda: ready(url) == 2, "both answer again")


def test_a_program_that_crashes_again_and_again_is_refused_at_once_with_the_reason(faulty: Path) -> None:
    with serving.process(f"m={faulty}", isolate=True) as (server, (url,)):
        replies = []

        def refused() -> bool:
            replies.append(ask(url, (CRASH, 0)))
            return "none runs" in replies[-1].json()["error"]

        serving.until(refused, "nobody waits for it any more")
        assert {reply.status_code for reply in replies} == {503}
        assert "needs a replica, and none runs: the last one was ended by SIGSEGV" in ask(url, (1, 1)).json()["error"]
        assert server.poll() is None
        serving.until(lambda: ask(url, (1, 1)).status_code == 200, "it is tried again")


@pytest.mark.slow
def test_kills_under_load_lose_no_request(faulty: Path) -> None:
    """Eight connections ask without a pause while replicas are killed, each as soon as both answer: every answer is there, and right."""
    stop, wrong = threading.Event(), list[str]()

    def asking(number: int) -> int:
        count = 0
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                value = 1000 * number + count % 1000
                reply = client.post(INFER, json=asked((value, number)))
                count += 1
                if reply.status_code != 200 or reply.json()["outputs"][0]["data"] != [2 * value, 2 * number]:
                    wrong.append(reply.text)
        return count

    kills = 6
    with serving.process(f"m={faulty}", replicas=2) as (server, (url,)), ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(asking, number) for number in range(8)]
        try:
            for kill in range(kills):
                serving.until(lambda: ready(url) == 2, "both answer")
                before = serving.metric(url, "hasten_requests_total", outcome="answered")
                serving.until(lambda b=before: serving.metric(url, "hasten_requests_total", outcome="answered") > b + 50, "there is load")
                serving.family(server)[kill % 2].kill()
                serving.until(lambda n=kill: serving.metric(url, "hasten_replica_restarts_total") == n + 1, "it was missed")
        finally:
            stop.set()
        counts = [one.result() for one in clients]
        assert wrong == []
        assert sum(counts) > 50 * kills
        assert serving.metric(url, "hasten_requests_total", outcome="answered") == sum(counts)


# With the rest of the server ----------------------------------------------------------------------------------------------


def _inside(server: Any, gate: Path) -> list[psutil.Process]:
    """The children that have `gate` open."""
    return [one for one in serving.family(server) if str(gate) in _open(one.pid)]


def _open(pid: int) -> set[str]:
    try:
        return {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:  # it has ended
        return set()


@pytest.fixture
def served(faulty: Path, tmp_path: Path) -> Iterator[tuple[Any, str, Path]]:
    """A server of a copy of the bundle, with two replicas, that may be loaded anew."""
    current = shutil.copytree(faulty, tmp_path / "current")
    with serving.process(f"m={current}", replicas=2, allow_reload=True) as (server, (url,)):
        yield server, url, current


def become(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def test_a_reload_replaces_the_processes_and_a_bad_one_changes_nothing(served: tuple[Any, str, Path], faulty: Path, tmp_path: Path) -> None:
    server, url, current = served
    first = set(serving.family(server))
    become(current, save(tmp_path / "three", factor=3))
    with ThreadPoolExecutor(5) as pool:
        loading = pool.submit(httpx.post, url + LOAD, timeout=60)
        asking = [pool.submit(lambda: [outputs(ask(url, (1, 2))) for _ in range(50)]) for _ in range(4)]
        assert loading.result().status_code == 200
        assert {tuple(answer) for one in asking for answer in one.result()} <= {(2, 4), (3, 6)}
    second = set(serving.family(server))
    assert (len(second), first & second) == (2, set())
    assert outputs(ask(url, (1, 2))) == [3, 6]
    (current / "program/factor").write_text("5")
    for _ in range(2):
        reply = httpx.post(url + LOAD, timeout=60)
        assert reply.status_code == 400
        assert "m version 1: stays as it was: program/factor: was changed after it was written" in reply.json()["error"]
    assert set(serving.family(server)) == second
    assert outputs(ask(url, (1, 2))) == [3, 6]


def test_a_replica_does_not_come_back_as_another_version(served: tuple[Any, str, Path], tmp_path: Path) -> None:
    """Somebody has put another bundle into the folder and not loaded it yet: the one that is left answers as before."""
    server, url, current = served
    become(current, save(tmp_path / "three", factor=3))
    serving.family(server)[0].kill()
    serving.until(lambda: serving.metric(url, "hasten_replica_restarts_total") >= 2, "it was tried twice")
    assert ready(url) == 1
    assert {tuple(outputs(ask(url, (1, 2)))) for _ in range(20)} == {(2, 4)}
    assert httpx.post(url + LOAD, timeout=60).status_code == 200
    assert ready(url) == 2
    assert {tuple(outputs(ask(url, (1, 2)))) for _ in range(20)} == {(3, 6)}


def test_each_replica_counts_in_the_memory_budget(faulty: Path) -> None:
    bundle = Bundle.open(faulty)
    create_app(bundle, memory_bytes=1.5 * footprint(bundle))
    with pytest.raises(NotPossibleHere, match="--memory: must be at least"):
        create_app(bundle, memory_bytes=1.5 * footprint(bundle), staffing=Staffing(count=2))


# How many -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["0", 0, "-1", "two", "", 1.5])
def test_the_number_must_be_one(wrong: Any) -> None:
    with pytest.raises(JobError, match="--replicas: must be a whole number from 1, or auto"):
        Staffing.read(wrong)


@pytest.mark.parametrize(("cores", "count"), [(8, 2), (8, 8), (8, 3), (2, 2), (5, 1)])
def test_each_has_cores_of_its_own(cores: int, count: int) -> None:
    parts = [part_of(range(10, 10 + cores), number, count) for number in range(count)]
    assert {len(part) for part in parts} == {cores // count}
    assert len(set().union(*parts)) == count * (cores // count)
    assert [part_of([4, 6], number, 3) for number in range(3)] == [[4], [6], [4]], "more than there are cores take turns"


def test_asked_for_is_what_there_is(faulty: Path) -> None:
    for wanted, programs in ((Staffing(), 0), (Staffing.read("3"), 3), (Staffing.read(1, isolated=True), 1)):
        with Bundle.open(faulty) as bundle:
            replicas = wanted.open(bundle, objective=np.inf)
            assert len(psutil.Process().children()) == programs == (replicas.count if replicas else 0)
            assert wanted.most(bundle) == max(programs, 1)
            cores = [child.cpu_affinity() for child in psutil.Process().children()]
            assert {len(part) for part in cores} <= {max(1, usable_cores() // max(programs, 1))}
            assert not cores or set().union(*cores) <= set(core_numbers())
    assert psutil.Process().children() == []


@pytest.mark.skipif(usable_cores() < 2, reason="one core is for one program")
def test_as_many_as_pay_are_those_that_measure_faster(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A doubling takes less than its request does: processes bring it nothing. Where a gain is not asked for, there is one a core."""
    with Bundle.open(faulty) as bundle:
        assert Staffing(count=None).open(bundle, objective=np.inf) is None
    monkeypatch.setattr(staffing, "FRONT_SECONDS", 0.0)
    for gain, programs in ((0.0, usable_cores()), (1e9, 0)):
        monkeypatch.setattr(staffing, "GAIN", gain)
        with Bundle.open(faulty) as bundle:
            Staffing(count=None).open(bundle, objective=np.inf)
            assert len(psutil.Process().children()) == programs
            assert bundle.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]
