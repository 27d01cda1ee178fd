"""A line for each request, whichever way it comes; what goes wrong with the file costs no answer."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bundles
import httpx
import numpy as np
import pytest
import serving
from serving import Held

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.errors import JobError
from hasten.serve.access import Access, Rights
from hasten.serve.access_log import AccessLog
from hasten.serve.app import create_app
from hasten.serve.door import Door
from hasten.serve.exchange import Exchange

INFER = "/v2/models/toy-model/infer"
ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
KEY = "alice-0123456789abcdef"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("null")
    return write(bundles.null_contents(folder), folder / "out")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@contextmanager
def served(path: Path, where: Path | str, *, hot_path: bool = True, program: Held | None = None, **door: Any) -> Iterator[str]:
    """The server's address. When this ends, all lines are written."""
    log, bundle = AccessLog(where), Bundle.open(path)
    if program is not None:
        bundle.__dict__["_program"] = program
    try:
        with serving.here(create_app(bundle, door=Door(log=log, **door)), hot_path=hot_path) as (_, url):
            yield url
    finally:
        log.close()


def posts(url: str, count: int) -> list[int]:
    with httpx.Client(base_url=url, timeout=60) as client:
        return [client.post(INFER, json=ONE).status_code for _ in range(count)]


def until(holds: Callable[[], Any], message: str) -> None:
    """Wait for a thread or process that works by itself."""
    import time

    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, message


ASKED = {
    "good": ("POST", INFER, {"json": ONE, "headers": {"x-request-id": "good"}}),
    "version": ("POST", "/v2/models/toy-model/versions/1/infer", {"json": ONE}),
    "own id": ("POST", INFER, {"json": {**ONE, "id": "mine"}, "headers": {"x-request-id": "other"}}),
    "bad": ("POST", INFER, {"content": b"{", "headers": {"x-request-id": "bad"}}),
    "unknown": ("POST", "/v2/models/other/infer", {"json": ONE}),
    "no picture model": ("POST", "/api/v1/classify?top_k=1", {"content": b"x", "headers": {"content-type": "image/png"}}),
    "metadata": ("GET", "/v2/models/toy-model", {}),
    "nowhere": ("GET", "/nowhere?token=secret", {}),
    "method": ("DELETE", INFER, {}),
}
WANTED = {  # status, route, model
    "good": (200, "/v2/models/{name}/infer", "toy-model"),
    "version": (200, "/v2/models/{name}/versions/{version}/infer", "toy-model"),
    "own id": (200, "/v2/models/{name}/infer", "toy-model"),
    "bad": (400, "/v2/models/{name}/infer", "toy-model"),
    "unknown": (404, "/v2/models/{name}/infer", None),
    "no picture model": (422, "/api/v1/classify", "toy-model"),
    "metadata": (200, "/v2/models/{name}", None),
    "nowhere": (404, None, None),
    "method": (405, "/v2/models/{name}/infer", None),
}
TIMES = {"time", "total_ms", "queue_ms", "run_ms", "id"}


@pytest.mark.parametrize("hot_path", [True, False])
def test_each_request_has_its_line(path: Path, tmp_path: Path, hot_path: bool) -> None:
    if hot_path:
        pytest.importorskip("httptools", reason="pip install 'hasten[serve]'")
    with served(path, tmp_path / "log", hot_path=hot_path) as url, httpx.Client(base_url=url) as client:
        replies = {name: client.request(method, where, **how) for name, (method, where, how) in ASKED.items()}
    assert {name: reply.status_code for name, reply in replies.items()} == {name: status for name, (status, _, _) in WANTED.items()}
    by_id = {line["id"]: line for line in lines(tmp_path / "log")}
    assert len(by_id) == len(ASKED) + 1, "and one for the question whether it is ready"
    for name, (method, where, _) in ASKED.items():
        reply, line = replies[name], by_id[replies[name].headers["x-request-id"]]
        assert (line["status"], line["route"], line["model"]) == WANTED[name]
        assert (line["protocol"], line["method"], line["path"]) == ("http", method, where.partition("?")[0])
        assert line["response_bytes"] == len(reply.content)
        assert line["version"] == (None if line["model"] is None else "1")
        ran = name in ("good", "version", "own id")
        assert (line["batch"], line["run_ms"] is None) == ((1, False) if ran else (None, True))
        assert not ran or 0 <= line["queue_ms"] <= line["total_ms"] >= line["run_ms"] > 0
    assert [replies[name].headers["x-request-id"] for name in ("good", "own id", "bad")] == ["good", "mine", "bad"]
    assert by_id["good"]["request_bytes"] == len(httpx.Request("POST", "http://x", json=ONE).content)
    assert "secret" not in (tmp_path / "log").read_text()


def test_both_ways_write_the_same(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("httptools", reason="pip install 'hasten[serve]'")
    said = []
    for hot_path in (True, False):
        file = tmp_path / str(hot_path)
        with served(path, file, hot_path=hot_path) as url, httpx.Client(base_url=url) as client:
            for method, where, how in ASKED.values():
                client.request(method, where, **how)
        said.append([{key: value for key, value in line.items() if key not in TIMES} for line in lines(file)])
    assert said[0] == said[1]


@pytest.mark.parametrize("given", ["", "a" * 129, "ünïcode".encode().decode("latin1")])
def test_an_id_that_is_no_id_is_replaced(path: Path, tmp_path: Path, given: str) -> None:
    with served(path, tmp_path / "log") as url:
        reply = httpx.post(url + INFER, json=ONE, headers={"x-request-id": given.encode("latin1")})
    assert reply.headers["x-request-id"] != given
    assert lines(tmp_path / "log")[-1]["id"] == reply.headers["x-request-id"]


def test_an_id_as_long_as_a_body_fills_no_header_and_no_log(path: Path, tmp_path: Path) -> None:
    long = "a" * 100_000
    with served(path, tmp_path / "log") as url:
        reply = httpx.post(url + INFER, json={**ONE, "id": long})
    assert reply.json()["id"] == long
    assert "x-request-id" not in reply.headers
    assert (tmp_path / "log").stat().st_size < 10_000


def test_keys_are_in_it_by_name_and_never_themselves(path: Path, tmp_path: Path) -> None:
    access = Access({"alice": Rights(sha256=hashlib.sha256(KEY.encode()).hexdigest(), requests_per_second=0.001)})
    with served(path, tmp_path / "log", access=access) as url:
        replies = [httpx.post(url + INFER, json=ONE, headers={"x-api-key": key}) for key in (KEY, KEY, "wrong-key")]
    found = [(line["status"], line["key"]) for line in lines(tmp_path / "log") if line["method"] == "POST"]
    assert found == [(200, "alice"), (429, "alice"), (401, None)]
    assert all(reply.headers["x-request-id"] for reply in replies)
    assert not {KEY, "wrong-key"} & set((tmp_path / "log").read_text().split('"'))


def test_requests_that_share_a_call_say_so_and_who_leaves_is_told(path: Path, tmp_path: Path) -> None:
    program = Held("y", 3)
    with served(path, tmp_path / "log", program=program) as url, ThreadPoolExecutor(4) as pool:
        program.hold()
        first = pool.submit(posts, url, 1)
        assert program.entered.wait(30)
        at = httpx.URL(url)
        with socket.create_connection((at.host, at.port)) as leaving:
            body = json.dumps(ONE).encode()
            leaving.sendall(
                f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nX-Request-Id: gone\r\n\r\n".encode() + body
            )
            until(lambda: httpx.get(f"{url}/metrics").text.count('hasten_queue_length{model="toy-model",version="1"} 1.0'), "it waits")
        until(lambda: 'cancelled",version="1"} 1.0' in httpx.get(f"{url}/metrics").text, "it has left")
        others = [pool.submit(posts, url, 1) for _ in range(3)]
        until(lambda: httpx.get(f"{url}/metrics").text.count('hasten_queue_length{model="toy-model",version="1"} 3.0'), "they wait")
        program.released.set()
        assert [f.result() for f in (first, *others)] == [[200]] * 4
    found = [line for line in lines(tmp_path / "log") if line["path"] == INFER]
    assert sorted(line["batch"] for line in found if line["status"] == 200) == [1, 3, 3, 3]
    assert [line["id"] for line in found if line["status"] == 499] == ["gone"]


def test_grpc_has_the_same_lines(path: Path, tmp_path: Path) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    utils = pytest.importorskip("tritonclient.utils")
    file = tmp_path / "log"
    with serving.process(path, grpc=True, access_log=str(file)) as (child, (_, url)):
        with grpc.InferenceServerClient(url.removeprefix("grpc://")) as client:
            x = grpc.InferInput("x", [1, 2], "FP32")
            x.set_data_from_numpy(np.ones((1, 2), np.float32))
            client.infer("toy-model", [x], request_id="good")
            client.infer("toy-model", [x], headers={"x-request-id": "in metadata"})
            with pytest.raises(utils.InferenceServerException):
                client.infer("other", [x], request_id="unknown")
            assert client.is_server_live()
            answers: list[Any] = []
            client.start_stream(lambda result, error: answers.append((result, error)))
            client.async_stream_infer("toy-model", [x], request_id="streamed")
            until(lambda: answers, "the stream's answer")
            client.stop_stream()
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    found = {line["id"]: line for line in lines(file)}
    assert [(found[name]["status"], found[name]["model"]) for name in ("good", "in metadata", "streamed", "unknown")] == [
        *[("OK", "toy-model")] * 3,
        ("NOT_FOUND", None),
    ]
    assert {line["protocol"] for line in found.values()} == {"grpc"}
    assert found["streamed"]["route"] == "/inference.GRPCInferenceService/ModelStreamInfer"
    assert found["good"]["batch"] == 1
    assert 0 <= found["good"]["queue_ms"] <= found["good"]["total_ms"]
    assert found["good"]["request_bytes"] > 20
    assert found["good"]["response_bytes"] > 20


def test_a_file_that_was_moved_away_is_made_anew_and_no_line_is_lost(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "log"
    with served(path, file) as url:
        for k in range(5):
            assert posts(url, 3) == [200] * 3
            until(lambda k=k: file.exists() and len(lines(file)) == 3 + (not k), "the lines are written")
            file.rename(tmp_path / f"log.{k}")
    assert sum(len(lines(old)) for old in tmp_path.glob("log.*")) == 16


def test_a_full_disk_costs_no_answer_and_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with served(path, "/dev/full") as url:
        for _ in range(3):
            assert posts(url, 5) == [200] * 5
    told = [record.getMessage() for record in caplog.records if record.name == "hasten.serve.access_log"]
    assert told == ["the access log /dev/full loses lines: [Errno 28] No space left on device"]


def test_a_folder_that_comes_back_is_written_again(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    told = lambda: [record.getMessage() for record in caplog.records if record.name == "hasten.serve.access_log"]  # noqa: E731
    with served(path, folder / "log") as url:
        until((folder / "log").read_text, "the first line is written")
        (folder / "log").unlink()
        folder.rmdir()
        assert posts(url, 4) == [200] * 4
        until(told, "it is told")
        until(lambda: posts(url, 1) and len(told()) == 1, "told once")
        folder.mkdir()
        until(lambda: posts(url, 1) and len(told()) == 2, "it is written again")
    assert "is written again; " in told()[1]
    assert lines(folder / "log")


def test_a_reader_that_does_not_read_costs_lines_and_no_answer(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pipe by name: full after some hundred lines. When it is read again, each line is whole or torn at its end, none in its middle."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(pipe)
    try:
        for k in range(1000):
            log.put(Exchange(id=str(k)), 200, 0)
        until(lambda: caplog.records, "it is told")
        first = os.read(reader, 1 << 20)
        log.put(Exchange(id="after"), 200, 0)
        until(lambda: len(caplog.records) > 1, "it is written again")
        second = os.read(reader, 1 << 20)
    finally:
        log.close()
        os.close(reader)
    whole, torn = [], 0
    for line in (first + second).splitlines():
        try:
            whole.append(json.loads(line)["id"])
        except ValueError:
            torn += 1
    lost = int(caplog.records[1].getMessage().split("; ")[1].split()[0])
    assert whole == [*map(str, range(len(whole) - 1)), "after"]
    assert torn <= 1
    assert len(whole) + lost == 1001


def test_a_closed_standard_output_costs_no_answer(path: Path) -> None:
    with serving.process(path, access_log="-") as (child, (url,)):
        assert child.stdout is not None
        child.stdout.close()
        for _ in range(3):
            assert posts(url, 5) == [200] * 5
        child.send_signal(signal.SIGTERM)
        child.wait(60)
        assert child.stderr is not None
        assert child.stderr.read().count("the access log - loses lines") == 1


def test_standard_output_has_the_lines(path: Path) -> None:
    with serving.process(path, access_log="-") as (child, (url,)):
        assert posts(url, 2) == [200, 200]
        child.send_signal(signal.SIGTERM)
        assert child.stdout is not None
        written = child.stdout.read().splitlines()
    assert [json.loads(line)["status"] for line in written[:2]] == [200, 200]
    assert written[2:] == ["stopped"]


def test_lines_that_come_faster_than_a_disk_takes_them_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log = AccessLog(tmp_path / "log")
    log.close()  # as a thread that hangs: nobody takes lines any more
    for _ in range(30_000):
        log.put(Exchange(), 200, 0)
    assert len(log._lines) == 20_000
    assert [record.getMessage() for record in caplog.records] == [
        f"the access log {tmp_path / 'log'} loses lines: they come faster than they are taken"
    ]


def test_a_file_that_cannot_be_written_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"--access-log: cannot be written \(No such file or directory\)"):
        AccessLog(tmp_path / "none" / "log")
    with pytest.raises(JobError, match=r"--access-log: cannot be written \(Is a directory\)"):
        AccessLog(tmp_path)
