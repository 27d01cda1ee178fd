"""A search that is killed goes on where it was, and one that is interrupted still answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("onnx")

import bundles

from hasten.bundle.read import Bundle
from hasten.bundle.verify import verify
from hasten.core.store import Store

pytestmark = pytest.mark.slow

BUDGET = "20m"
"""Never short, so that nothing depends on how fast this minute is: what is left of a budget decides how thorough the finish is."""

Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    bundles.save_classifier(folder / "net.onnx")
    pixels = np.random.default_rng(0).normal(size=(60, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
    np.savez(folder / "data.npz", pixels=pixels)
    return folder


def search(folder: Path, store: Path, *, techniques: str) -> subprocess.Popen[str]:
    """`hasten optimize`, started. What it says on standard error tells a test how far it is."""
    arguments = ["optimize", "net.onnx", "--data", "data.npz", "--out", str(store / "out"), "--store", str(store)]
    arguments += ["--threads", "1", "--budget", BUDGET, "--set", f"search.techniques={techniques}", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "hasten", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background job ignores it
    )


def finished(steps: Steps) -> Counter[str]:
    return Counter(step["key"] for step in steps if step["event"] == "finish")


def killed_after(count: int, folder: Path, store: Path) -> Steps:
    """The journal of a search that was killed with all its process group once `count` steps were finished."""
    process = search(folder, store, techniques="[]")
    assert process.stderr is not None
    for _ in process.stderr:  # it says something before each step
        if len(finished(Store(store).journal())) >= count:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == [], "children die with their parent"
    return Store(store).journal()


@pytest.mark.parametrize("count", [4, 14])
def test_a_killed_search_goes_on_and_repeats_nothing(count: int, folder: Path, tmp_path: Path) -> None:
    before = killed_after(count, folder, tmp_path)
    assert len(finished(before)) >= count
    document = answered(search(folder, tmp_path, techniques="[]"))
    assert document["answer"]["recipe"] in ([], ["simplify"])  # equally fast
    assert document["answer"]["runtime"].startswith("onnxruntime")  # by far the fastest for a net that small
    after = Store(tmp_path).journal()[len(before) :]
    assert not {step["key"] for step in after if step["event"] == "start"} & set(finished(before))
    assert set(finished([*before, *after]).values()) == {1}

    again = answered(search(folder, tmp_path, techniques="[]"))
    assert again["answer"] == document["answer"]
    assert again["speedup"] == document["speedup"]
    assert Store(tmp_path).journal() == [*before, *after], "a finished search does nothing again"


def test_an_interrupted_search_answers_with_what_it_knows(folder: Path, tmp_path: Path) -> None:
    process = search(folder, tmp_path, techniques='["static-int8"]')
    assert process.stderr is not None
    for line in process.stderr:
        if "== techniques" in line:
            process.send_signal(signal.SIGINT)
            break
    document = answered(process)
    assert document["verdict"] in ("passed", "reference")
    verified = subprocess.run([sys.executable, "-m", "hasten", "verify", str(tmp_path / "out")], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_an_interrupt_before_there_is_an_answer_ends_it(folder: Path, tmp_path: Path) -> None:
    process = search(folder, tmp_path, techniques="[]")
    assert process.stderr is not None
    for line in process.stderr:
        if "== lossless" in line:
            process.send_signal(signal.SIGINT)
            break
    output, words = process.communicate()
    assert process.returncode == 130
    assert output == ""
    assert words.endswith("stopped. Finished steps are kept: the same command goes on from there.\n")
    assert not (tmp_path / "out").exists()


def bundle_of(place: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The answer document of a bundle that verifies, and the sha256 of each of its files."""
    for proof in verify(place):
        assert proof.ok, proof
    opened = Bundle.open(place)
    return opened.answer, {name: record.sha256 for name, record in opened.manifest.files.items()}


def test_an_earlier_bundle_stays_until_the_new_search_has_its_answer(folder: Path, tmp_path: Path) -> None:
    """What is known so far lies beside it and says that the search has not ended; a killed search leaves both."""
    first = answered(search(folder, tmp_path, techniques="[]"))
    earlier = bundle_of(tmp_path / "out")
    assert not (tmp_path / "out.unfinished").exists()

    process = search(folder, tmp_path, techniques='["static-int8"]')
    assert process.stderr is not None
    for line in process.stderr:
        if "== techniques" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert bundle_of(tmp_path / "out") == earlier
    so_far, _ = bundle_of(tmp_path / "out.unfinished")
    assert (so_far["verdict"], so_far["answer"]["id"]) == ("unfinished", first["answer"]["id"])

    last = answered(search(folder, tmp_path, techniques='["static-int8"]'))
    assert bundle_of(tmp_path / "out")[0]["verdict"] == last["verdict"]
    assert bundle_of(tmp_path / "out")[1] != earlier[1]
    assert not (tmp_path / "out.unfinished").exists()


def answered(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, words = process.communicate()
    assert process.returncode == 0, words[-3000:]
    document: dict[str, Any] = json.loads(output)
    return document
