"""Who is refused before he is read hears what he would have heard later, and nobody is refused there who might have been answered."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import bundles
import httpx
import numpy as np
import pytest
import serving
from serving import Held
from starlette.applications import Starlette
from starlette.requests import Request

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.serve.app import create_app
from hasten.serve.curve import Curve
from hasten.serve.schedule import Schedule
from hasten.serve.service import Limits

pytest.importorskip("onnx")
pytest.importorskip("httptools", reason="pip install 'hasten[serve]'")
PICTURE = bundles.pictures(1, seed=4)[0]
PIXELS = np.zeros((1, 3, bundles.SIDE, bundles.SIDE), np.float32)
INFER, CLASSIFY = "/v2/models/toy-model/infer", "/api/v1/classify"
ENTRY = {"name": "pixels", "datatype": "FP32", "shape": list(PIXELS.shape)}


def asking(**parameters: object) -> bytes:
    return json.dumps({"inputs": [{**ENTRY, "data": PIXELS.ravel().tolist()}], "parameters": parameters}).encode()


HEAD = json.dumps({"inputs": [{**ENTRY, "parameters": {"binary_data_size": PIXELS.nbytes}}]}).encode()
IN_BASE64 = json.dumps({"image_base64": base64.b64encode(PICTURE).decode()}).encode()
BULK = json.dumps({"image_base64": base64.b64encode(PICTURE).decode(), "priority": "bulk"}).encode()


def post(path: str, content: bytes, kind: str = "application/json", **headers: str) -> bytes:
    head = {"Host": "x", "Content-Type": kind, "Content-Length": str(len(content)), "X-Request-Id": "7", **headers}
    return "\r\n".join([f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]).encode() + content


LATE = {
    "json": post(INFER, asking()),
    "binary": post(INFER, HEAD + PIXELS.tobytes(), **{"Inference-Header-Content-Length": str(len(HEAD))}),
    "version": post("/v2/models/toy-model/versions/1/infer", asking()),
    "its own timeout": post(INFER, asking(timeout=5_000_000)),
    "base64": post(CLASSIFY, IN_BASE64),
    "picture": post(CLASSIFY, PICTURE, "image/png"),
}  # fmt: skip
OTHERWISE = {
    "no such model": (404, post("/v2/models/other/infer", asking())),
    "no such version": (404, post("/v2/models/toy-model/versions/9/infer", asking())),
    "no body": (400, post(INFER, b"")),
    "too large": (413, post(INFER, b" " * 50_000)),
    "wrong header length": (400, post(INFER, asking(), **{"Inference-Header-Content-Length": "x"})),
    "wrong type": (415, post(CLASSIFY, b"x", "text/plain")),
    "no form": (400, post(CLASSIFY, b"x", "multipart/form-data")),
}
BY_AND_BY = {
    "bulk": post(INFER, asking(priority=2)),
    "bulk in other letters": post(INFER, asking(priority=2).replace(b"priority", b"prior\\u0069ty")),
    "bulk picture": post(CLASSIFY, BULK),
    "bulk picture, not as JSON": post(f"{CLASSIFY}?priority=bulk", PICTURE, "image/png"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return write(bundles.picture_contents(folder), folder / "out")


@contextmanager
def busy(path: Path, *, hot_path: bool = True) -> Iterator[tuple[Starlette, str, Held]]:
    """A server whose program makes no headway: calls are believed to take 15 s, and the objective is 20 s."""
    bundle = Bundle.open(path)
    spec = bundle.signature.outputs[0]
    program = Held(spec.name, spec.shape[1] or 1)
    bundle.__dict__["_program"] = program
    app = create_app(bundle, objective=20.0, limits=Limits(body_bytes=40_000))
    with serving.here(app, hot_path=hot_path) as (_, url):
        batcher = app.state.service.models.get("toy-model")._batcher
        batcher._schedule = Schedule(Curve({1: 15.0}), objective=20.0, elements=PIXELS.size)
        program.hold()
        first = threading.Thread(target=httpx.post, args=(url + INFER,), kwargs={"content": asking(), "timeout": 60})
        first.start()
        assert program.entered.wait(30)
        try:
            yield app, url, program
        finally:
            program.released.set()
            first.join(60)


@pytest.fixture(scope="module")
def both(path: Path) -> Iterator[list[str]]:
    """The same busy server, with the hot path and without."""
    with ExitStack() as stack:
        yield [stack.enter_context(busy(path, hot_path=way))[1] for way in (True, False)]


def connected(url: str) -> socket.socket:
    at = urlsplit(url)
    return socket.create_connection((at.hostname, at.port), timeout=30)  # type: ignore[arg-type]


def closing(request: bytes) -> bytes:
    """The last one on its connection."""
    return request.replace(b"Host: x", b"Host: x\r\nConnection: close")


def exchange(url: str, requests: bytes) -> bytes:
    """All that comes back until the server closes the connection, without the dates."""
    with connected(url) as connection:
        connection.sendall(requests)
        return re.sub(rb"\r\ndate: [^\r]+", b"", b"".join(iter(lambda: connection.recv(65536), b"")))


@pytest.mark.parametrize("kind", LATE)
def test_who_is_too_late_hears_the_same_at_the_door_as_from_the_endpoint(both: list[str], kind: str) -> None:
    answers = [exchange(url, closing(LATE[kind])) for url in both]
    assert answers[0].startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: " in answers[0]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", OTHERWISE)
def test_what_is_wrong_for_another_reason_is_told_so_on_both_ways(both: list[str], kind: str) -> None:
    status, request = OTHERWISE[kind]
    answers = [exchange(url, closing(request)) for url in both]
    assert answers[0].startswith(f"HTTP/1.1 {status} ".encode())
    assert answers[0] == answers[1]


@pytest.mark.parametrize("hot_path", [True, False])
def test_bulk_requests_come_in_and_are_answered_when_there_is_time(path: Path, hot_path: bool) -> None:
    with busy(path, hot_path=hot_path) as (app, url, program):
        batcher = app.state.service.models.get("toy-model")._batcher
        with ExitStack() as stack:
            connections = [stack.enter_context(connected(url)) for _ in BY_AND_BY]
            for connection, request in zip(connections, BY_AND_BY.values(), strict=True):
                connection.sendall(request)
            for _ in range(10_000):
                if len(batcher) == len(BY_AND_BY):
                    break
                httpx.get(url + "/v2/health/live")
            program.released.set()
            assert [connection.recv(100)[:13] for connection in connections] == [b"HTTP/1.1 200 "] * len(BY_AND_BY)


def test_no_endpoint_is_called_for_who_is_refused_at_the_door(path: Path) -> None:
    with busy(path) as (app, url, _):
        before = httpx.get(url + "/metrics").text

        async def called(request: Request) -> None:
            raise AssertionError("came in")

        for route in app.routes:
            if getattr(route, "path", "") in (CLASSIFY, INFER.replace("toy-model", "{name}")):
                route.endpoint = called  # type: ignore[attr-defined]
        for kind in ("json", "binary", "base64", "picture"):
            assert exchange(url, closing(LATE[kind])).startswith(b"HTTP/1.1 503 "), kind
        after = httpx.get(url + "/metrics").text
    counts = [float(re.findall(r'hasten_requests_total\{.*outcome="refused".*\} (\S+)', text)[0]) for text in (before, after)]
    assert counts[1] - counts[0] == 4


def test_refusals_and_answers_on_one_connection_keep_the_order_of_its_requests(path: Path) -> None:
    ordinary = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = [LATE["json"], ordinary, LATE["binary"], LATE["picture"], ordinary, LATE["json"]]
    with busy(path) as (_, url, _):
        together = exchange(url, b"".join(sent[:-1]) + closing(sent[-1]))
        with connected(url) as connection:
            one_by_one = []
            for request in sent:
                connection.sendall(request)
                one_by_one.append(connection.recv(65536)[9:12])
    expected = [b"503", b"200", b"503", b"503", b"200", b"503"]
    assert re.findall(rb"HTTP/1.1 (\d+) ", together) == one_by_one == expected


def test_a_request_that_comes_in_parts_is_refused_when_it_is_whole(both: list[str]) -> None:
    request = closing(LATE["binary"])
    with connected(both[0]) as connection:
        for at in range(0, len(request), 1000):
            connection.sendall(request[at : at + 1000])
            assert httpx.get(both[0] + "/v2/health/live").status_code == 200  # the part before was read
        assert b"".join(iter(lambda: connection.recv(65536), b"")).startswith(b"HTTP/1.1 503 ")


def test_who_is_not_too_late_is_answered(path: Path) -> None:
    with serving.here(create_app(Bundle.open(path), objective=20.0)) as (_, url):
        for kind, request in LATE.items():
            assert exchange(url, closing(request)).startswith(b"HTTP/1.1 200 "), kind
