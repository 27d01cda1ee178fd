"""Versions come and go while others are answered: no request is lost, and what is wrong changes nothing."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import httpx
import numpy as np
import psutil
import pytest
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import write

pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets.*")

LOAD, UNLOAD = "/v2/repository/models/toy/load", "/v2/repository/models/toy/unload"
X = np.random.default_rng(0).normal(size=(1, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
ASK = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": list(X.shape), "data": X.ravel().tolist()}]}


def save(folder: Path, seed: int, certified: dict[str, np.ndarray] | None = None) -> Path:
    """The picture classifier with the weights of `seed`, which also names its classes."""
    parts = folder / f"parts-{seed}"
    parts.mkdir()
    signature = bundles.save_classifier(parts / "model.onnx", seed=seed)
    golden = bundles.Samples(inputs={"": bundles.pictures(2)})
    labels = tuple(f"{seed}-{k}" for k in range(bundles.CLASSES))
    contents = bundles.contents(parts, signature, golden, preprocess=bundles.PREPROCESS, labels=labels)
    return write(contents if certified is None else replace(contents, golden_outputs=certified), folder / f"seed-{seed}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("versions")
    return save(folder, 1), save(folder, 2)


@pytest.fixture
def served(saved: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[Any, httpx.Client, Path]]:
    """A server of `toy`, whose folder is a copy of the first; a client; the folder."""
    current = shutil.copytree(saved[0], tmp_path / "current")
    with (
        serving.process(f"toy={current}", allow_reload=True) as (process, (url,)),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield process, client, current


def become(folder: Path, other: Path) -> None:
    """`folder` holds from now on what `other` does."""
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def scores(path: Path) -> list[float]:
    with Bundle.open(path) as bundle:
        return bundle.predict(X)["scores"].ravel().tolist()  # type: ignore[no-any-return]


def answer(client: httpx.Client, version: str = "") -> list[float]:
    reply = client.post(f"/v2/models/toy{version}/infer", json=ASK)
    assert reply.status_code == 200, reply.text
    return reply.json()["outputs"][0]["data"]  # type: ignore[no-any-return]


def index(client: httpx.Client, **options: Any) -> list[tuple[str, str, str]]:
    return [(entry["version"], entry["state"], entry["reason"]) for entry in client.post("/v2/repository/index", json=options).json()]


@pytest.mark.slow
def test_a_hundred_reloads_under_load_lose_no_request_and_mix_no_versions(served: tuple[Any, httpx.Client, Path], saved: Any) -> None:
    """Every answer is one bundle's through and through: decoded, computed and named by the same."""
    process, client, current = served
    for path in saved:
        shutil.copytree(path, current.parent / path.name)
    picture, expected = bundles.pictures(1)[0], {}
    for path in saved:
        with Bundle.open(path) as bundle:
            guess = bundle.classify(picture)[0][0]
            expected[guess.label] = guess.score
    stop, seen, wrong = threading.Event(), set[str](), list[str]()

    def ask() -> int:
        count = 0
        with httpx.Client(base_url=client.base_url, timeout=60) as mine:
            while not stop.is_set():
                reply = mine.post("/api/v1/classify", content=picture, headers={"content-type": "image/png"})
                count += 1
                if reply.status_code != 200:
                    wrong.append(reply.text)
                    continue
                best = reply.json()["predictions"][0]
                seen.add(best["label"])
                if abs(expected[best["label"]] - best["score"]) > 1e-5:
                    wrong.append(f"{best}")
        return count

    inside, before = psutil.Process(process.pid), (0, 0)
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for k in range(100):
                reply = client.post(LOAD, json={"parameters": {"version": "1", "folder": saved[k % 2].name}})
                assert reply.status_code == 200, reply.text
                if k == 9:
                    before = inside.num_threads(), inside.memory_info().rss
        finally:
            stop.set()
        counts = [future.result() for future in asking]
    assert wrong == []
    assert seen == set(expected)
    assert sum(counts) > 100
    assert inside.num_threads() <= before[0] + 2
    assert inside.memory_info().rss < before[1] + 30e6, "90 reloads left less than a third of a program each"


def test_load_reads_the_folder_again(served: tuple[Any, httpx.Client, Path], saved: tuple[Path, Path]) -> None:
    _, client, current = served
    first, second = map(scores, saved)
    assert answer(client) == pytest.approx(first, abs=1e-5)
    become(current, saved[1])
    assert answer(client) == pytest.approx(first, abs=1e-5), "nobody asked for the new one yet"
    assert client.post(LOAD).json() == {}
    assert answer(client) == pytest.approx(second, abs=1e-5)


@pytest.mark.parametrize("damage", ["flip", "missing", "manifest", "other outputs"])
def test_a_bad_new_version_leaves_the_old_one_in_service(served: tuple[Any, httpx.Client, Path], saved: Any, damage: str) -> None:
    process, client, current = served
    become(current, saved[1])
    program = next(path for path in (current / "program").iterdir() if path.suffix == ".onnx")
    if damage == "flip":
        raw = bytearray(program.read_bytes())
        raw[len(raw) // 2] ^= 1
        program.write_bytes(raw)
    elif damage == "missing":
        program.unlink()
    elif damage == "manifest":
        (current / "manifest.json").write_text("{")
    else:  # every file is as it was written, and the program computes something else than was certified
        become(current, save(current.parent, 3, certified={"scores": np.zeros((2, bundles.CLASSES), np.float32)}))
    threads = psutil.Process(process.pid).num_threads()
    for _ in range(3):
        reply = client.post(LOAD)
        assert reply.status_code == 400
        assert reply.json()["error"].startswith("toy version 1: stays as it was: ")
    assert answer(client) == pytest.approx(scores(saved[0]), abs=1e-5)
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert index(client) == [("1", "READY", "")]
    assert psutil.Process(process.pid).num_threads() <= threads + 1


def test_a_folder_beside_it_becomes_a_new_version(served: tuple[Any, httpx.Client, Path], saved: tuple[Path, Path]) -> None:
    _, client, current = served
    shutil.copytree(saved[1], current.parent / "new")
    assert client.post(LOAD, json={"parameters": {"folder": "new"}}).status_code == 200
    assert index(client) == [("1", "READY", ""), ("2", "READY", "")]
    assert answer(client) == answer(client, "/versions/2") == pytest.approx(scores(saved[1]), abs=1e-5)
    assert answer(client, "/versions/1") == pytest.approx(scores(saved[0]), abs=1e-5)
    assert client.post(UNLOAD, json={"parameters": {"version": "2"}}).status_code == 200
    assert index(client) == [("1", "READY", ""), ("2", "UNAVAILABLE", "unloaded")]
    assert index(client, ready=True) == [("1", "READY", "")]
    assert answer(client) == pytest.approx(scores(saved[0]), abs=1e-5)


def test_unloaded_models_are_unknown_until_they_are_loaded_again(served: tuple[Any, httpx.Client, Path]) -> None:
    _, client, _ = served
    before = answer(client)
    assert client.post(UNLOAD).status_code == 200
    reply = client.post("/v2/models/toy/infer", json=ASK)
    assert (reply.status_code, reply.json()["error"]) == (404, "model: must be loaded, but got 'toy'.")
    assert client.get("/v2/health/ready").status_code == 200
    assert client.post(LOAD).status_code == 200
    assert answer(client) == before


def test_sighup_loads_anew_what_is_in_service(served: tuple[Any, httpx.Client, Path], saved: tuple[Path, Path]) -> None:
    process, client, current = served
    become(current, saved[1])
    process.send_signal(signal.SIGHUP)
    expected = pytest.approx(scores(saved[1]), abs=1e-5)
    assert any(answer(client) == expected for _ in range(10_000))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"parameters": {"folder": "../current"}}, "parameter 'folder': must be the name of a folder beside"),
        ({"parameters": {"folder": ".."}}, "parameter 'folder': must be the name of a folder beside"),
        ({"parameters": {"folder": "current", "version": "01"}}, "parameter 'version': must be a whole number"),
        ({"parameters": {"version": 1}}, "parameter 'version': must be text"),
        ({"parameters": {"config": "{}"}}, "parameters: must hold only folder, version, but got 'config'"),
        ({"parameters": []}, "parameters: must be an object"),
    ],
)
def test_a_wrong_request_is_told(served: tuple[Any, httpx.Client, Path], body: Any, message: str) -> None:
    reply = served[1].post(LOAD, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith(message)
    assert served[1].post(LOAD.replace("toy", "other")).status_code == 404
    assert served[1].post(LOAD, json={"parameters": {"version": "9"}}).status_code == 404


def test_tritonclient_manages_the_repository_over_both_protocols(saved: tuple[Path, Path]) -> None:
    http = pytest.importorskip("tritonclient.http")
    grpc = pytest.importorskip("tritonclient.grpc")
    with serving.process(f"toy={saved[0]}", grpc=True, allow_reload=True) as (_, (url, grpc_url)):
        with http.InferenceServerClient(url.removeprefix("http://")) as client:
            client.unload_model("toy")
            assert [entry["state"] for entry in client.get_model_repository_index()] == ["UNAVAILABLE"]
            client.load_model("toy")
            assert client.is_model_ready("toy")
        with grpc.InferenceServerClient(grpc_url.removeprefix("grpc://")) as client:
            client.unload_model("toy")
            (entry,) = client.get_model_repository_index().models
            assert (entry.name, entry.version, entry.state, entry.reason) == ("toy", "1", "UNAVAILABLE", "unloaded")
            assert not client.is_model_ready("toy")
            client.load_model("toy")
            assert client.is_model_ready("toy")
            with pytest.raises(Exception, match="must be one of toy"):
                client.load_model("other")


def test_without_allow_reload_nothing_changes(saved: tuple[Path, Path]) -> None:
    with serving.process(f"toy={saved[0]}") as (process, (url,)), httpx.Client(base_url=url, timeout=60) as client:
        for path in (LOAD, UNLOAD):
            reply = client.post(path)
            assert reply.status_code == 403
            assert "hasten serve --allow-reload" in reply.json()["error"]
        assert index(client) == [("1", "READY", "")]
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == -signal.SIGHUP, "as ever"


def test_the_command_line_reaches_the_server(saved: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "hasten", "serve", f"toy={saved[0]}", f"toy={saved[1]}", "--port", "0", "--allow-reload"]
    options = ["--split", "toy@1=1", "--canary", "toy@2=5", "--memory", "1GB"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            with httpx.Client(base_url=child.stdout.readline().split()[0], timeout=60) as client:
                (found,) = client.get("/api/v1/experiments").json()["experiments"]
                assert found["weights"] == {"1": 0.95, "2": 0.05}
                assert client.post(LOAD).status_code == 200
        finally:
            child.terminate()


def test_a_slow_sender_and_a_half_closed_socket_hold_up_no_reload(served: tuple[Any, httpx.Client, Path]) -> None:
    """Neither has sent all of a request: nobody waits for them, and the slow one is answered when he has. Nor for one who left."""
    _, client, _ = served
    where = (client.base_url.host, client.base_url.port or 0)
    body = httpx.Request("POST", client.base_url, json=ASK).content
    head = f"POST /v2/models/toy/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(where) as slow, socket.create_connection(where) as half:
        slow.sendall(head + body[:100])
        half.sendall(head + body[:100])
        half.shutdown(socket.SHUT_WR)
        assert client.post(LOAD).status_code == 200
        assert answer(client)
        slow.sendall(body[100:])
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(where) as gone:
        gone.sendall(head + body)
        gone.close()
    assert client.post(LOAD).status_code == 200
    assert answer(client)
