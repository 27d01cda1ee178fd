"""Some hundred wrong requests of each protocol, with right ones in between (benchmarks/serve_fuzz.py sends ten thousand): each is answered
or its connection closed, none by a failure of the server's own, and every right one is answered right."""

from __future__ import annotations

import asyncio
import importlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import psutil
import pytest
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import write

pytest.importorskip("onnx")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("serve_fuzz")


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensors")
    return write(bundles.tensor_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def server(tensors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    folder = tmp_path_factory.mktemp("pictures")
    pictures = write(bundles.picture_contents(folder), folder / "out")
    log = str(folder / "access.log")
    with serving.process(f"tensors={tensors}", f"pictures={pictures}", grpc=True, access_log=log) as (child, urls):
        yield child, [url.split("//")[1] for url in urls]
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0


def test_http(fuzz: Any, server: tuple[subprocess.Popen[str], list[str]], tensors: Path) -> None:
    pytest.importorskip("httptools", reason="pip install 'hasten[serve]'")
    child, (address, _) = server
    requests = fuzz.right_requests(address, tensors="tensors", pictures="pictures", picture=bundles.pictures(1)[0])
    found = asyncio.run(fuzz.http(address, requests, count=400, seed=3))
    assert found.problems == []
    assert found.sent == 400
    assert found.right >= 300
    assert {200, 400, 404, 413, 415} <= set(found.answers), "they are wrong in many ways"
    assert child.poll() is None


def test_what_is_taken_for_right_is_what_the_bundle_computes(
    fuzz: Any, server: tuple[subprocess.Popen[str], list[str]], tensors: Path
) -> None:
    import httpx

    _, (address, _) = server
    inputs = httpx.get(f"http://{address}/v2/models/tensors").json()["inputs"]
    values = fuzz.mutants.tensors(inputs, np.random.default_rng(0))
    good = fuzz.mutants.infer("tensors", inputs, values, binary=False)
    answer = httpx.post(f"http://{address}{good.path}", json=good.head).json()
    with Bundle.open(tensors) as bundle:
        expected = bundle.run(bundle.prepare_tensors(values))
    for output in answer["outputs"]:
        np.testing.assert_array_equal(np.array(output["data"], expected[output["name"]].dtype), expected[output["name"]].ravel())


def test_grpc(fuzz: Any, server: tuple[subprocess.Popen[str], list[str]]) -> None:
    pytest.importorskip("grpc", reason="pip install 'hasten[serve]'")
    child, (_, address) = server
    found = asyncio.run(fuzz.grpc(address, model="tensors", count=300, seed=3))
    assert found.problems == []
    assert found.sent == 300
    assert found.right >= 50
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(found.answers)
    assert child.poll() is None


def test_nothing_is_left_open(fuzz: Any, server: tuple[subprocess.Popen[str], list[str]]) -> None:
    """Connections and threads are as many as before."""
    child, (address, _) = server
    process = psutil.Process(child.pid)
    before = fuzz.State.of(process)
    requests = fuzz.right_requests(address, tensors="tensors", pictures="pictures", picture=bundles.pictures(1)[0])
    assert asyncio.run(fuzz.http(address, requests, count=100, seed=5)).problems == []
    while len([c for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]):
        pass  # the last ones are closed as soon as the server has seen that their clients are gone
    after = fuzz.State.of(process)
    assert (after.files, after.threads) <= (before.files, before.threads)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_makes_the_same_requests_again(fuzz: Any, seed: int) -> None:
    good = fuzz.Good(path="/x", head={"inputs": [1, 2]}, raw=b"abc")
    twice = [[mutant.pieces for _, mutant in zip(range(50), fuzz.mutants.http([good], seed), strict=False)] for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(set(twice[0])) > 40
