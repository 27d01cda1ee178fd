"""`hasten optimize --workers`: the same answer from many machines, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("onnx")
pytest.importorskip("ray", reason="the extra `ray` is not installed")

import bundles
import ray_helpers

from hasten.core.store import Store

pytestmark = pytest.mark.slow

SPY = Path(__file__).with_name("spy_plugin.py")
Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    bundles.save_classifier(folder / "net.onnx")
    pixels = np.random.default_rng(0).normal(size=(60, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
    np.savez(folder / "data.npz", pixels=pixels)
    return folder


def search(folder: Path, store: Path, workers: str, *more: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`hasten optimize`, started."""
    arguments = ["optimize", "net.onnx", "--data", "data.npz", "--out", str(store / "out"), "--store", str(store), "--workers", workers]
    return subprocess.Popen(
        [sys.executable, "-m", "hasten", *arguments, "--threads", "1", "--budget", "20m", "--json", *more],
        cwd=folder,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background job ignores it
    )


def answered(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, words = process.communicate()
    assert process.returncode == 0, words[-3000:]
    document: dict[str, Any] = json.loads(output)
    return document


def finished(steps: Steps) -> Counter[str]:
    return Counter(step["key"] for step in steps if step["event"] == "finish")


def until(line: str, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert any(line in said for said in process.stderr), f"it ended before it said {line!r}"


def until_finished(count: int, process: subprocess.Popen[str], store: Path) -> None:
    assert process.stderr is not None
    for _ in process.stderr:  # it says something before each step
        if len(finished(Store(store).journal())) >= count:
            return
    pytest.fail("it ended before so many steps were finished")


def killed_after(count: int, process: subprocess.Popen[str], store: Path) -> Steps:
    """The journal of a search that was killed once `count` steps were finished."""
    until_finished(count, process, store)
    process.kill()
    process.communicate()
    return Store(store).journal()


def assert_nothing_repeated(before: Steps, whole: Steps) -> None:
    after = whole[len(before) :]
    assert not {step["key"] for step in after if step["event"] == "start"} & set(finished(before))
    assert set(finished(whole).values()) == {1}


def left_by(process: subprocess.Popen[str]) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"hasten-ray-{process.pid}-*"))


def all_gone(children: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(children, timeout=150)
    return all(p.status() == psutil.STATUS_ZOMBIE for p in alive if p.is_running())


def test_a_killed_search_takes_its_ray_along_and_goes_on(folder: Path, tmp_path: Path) -> None:
    only_lossless = ("--set", "search.techniques=[]")
    first = search(folder, tmp_path, "ray", *only_lossless)
    until_finished(8, first, tmp_path)
    children = psutil.Process(first.pid).children(recursive=True)
    at_once = [child for child in children if "Agent" not in child.name()]  # Ray's agents take a minute to notice
    assert any("raylet" in child.name() for child in at_once)
    first.kill()  # it alone: the others must see to themselves
    first.communicate()
    assert all_gone(at_once)
    before = Store(tmp_path).journal()

    second = search(folder, tmp_path, "ray", *only_lossless)
    document = answered(second)
    assert document["answer"]["runtime"].startswith("onnxruntime")
    assert_nothing_repeated(before, Store(tmp_path).journal())
    assert left_by(first) == left_by(second) == [], "what the killed one left is removed by the next one"
    assert all_gone(children)


def test_an_interrupt_leaves_nothing_of_ray(folder: Path, tmp_path: Path) -> None:
    process = search(folder, tmp_path, "ray")
    until("== lossless", process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all that share it
    output, words = process.communicate()
    assert process.returncode == 130, words[-3000:]
    assert words.endswith("stopped. Finished steps are kept: the same command goes on from there.\n")
    assert output == ""
    assert all_gone(children)
    assert left_by(process) == []


def test_built_anywhere_timed_on_the_target_through_kills(folder: Path, tmp_path: Path) -> None:
    """A cluster of three nodes that work. The search is killed once, and so are a build and a race with the Ray worker that has them."""
    spied = {"HASTEN_SPY": str(tmp_path)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ray_helpers.cluster(ray_client_server_port=port, env_vars=spied) as made:
        target = ray_helpers.add(made, tmp_path / "target", env=spied, resources={ray_helpers.LABEL: 1})
        for number in range(2):
            ray_helpers.add(made, tmp_path / f"builder{number}", env=spied)
        settings = (f"target.label={ray_helpers.LABEL}", 'target.runtimes=["onnxruntime", "spied"]', 'search.techniques=["spied"]')
        more = [word for setting in settings for word in ("--set", setting)]
        again = (folder, tmp_path / "store", f"ray://127.0.0.1:{port}", "--plugin", str(SPY), *more)
        before = killed_after(8, search(*again, env=spied), tmp_path / "store")
        document = answered(search(*again, env=spied))

    assert document["verdict"] in ("passed", "reference")
    assert_nothing_repeated(before, Store(tmp_path / "store").journal())
    assert (tmp_path / "build-killed").exists()
    assert (tmp_path / "race-killed").exists()
    assert set((tmp_path / "ran").read_text().split()) == {"target"}
    assert set((tmp_path / "built").read_text().split()) <= {"builder0", "builder1"}
    builds = len((tmp_path / "built").read_text().split())
    assert 4 <= builds <= 7, "three variants, one of them killed; and again what was under way when the search was killed"
    lines = [json.loads(line) for line in (tmp_path / "store" / "out" / "evidence.jsonl").read_text().splitlines()]
    taken = [line for line in lines if line["kind"] == "measurement" and line["metric"] in ("latency", "peak_memory", "throughput")]
    assert {line["where"]["node"] for line in taken} == {target.node_id}
    spied_trials = [line for line in lines if line["kind"] == "trial" and "spied" in line["text"]]
    assert len(spied_trials) >= 4, "three candidates, and the other runtime"
    assert [line["reason"] for line in spied_trials if line["fate"] == "failed"] == []
