"""Requests that are answered where their connection is read get the answers that all others get, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import bundles
import numpy as np
import pytest
import serving
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.serve import halfclose, hot
from hasten.serve.access import Access, Rights
from hasten.serve.app import create_app
from hasten.serve.door import Door
from hasten.serve.service import Limits

pytest.importorskip("onnx")
pytest.importorskip("httptools", reason="pip install 'hasten[serve]'")
PICTURE = bundles.pictures(1, seed=4)[0]
PIXELS = np.random.default_rng(0).normal(size=(2, 3, bundles.SIDE, bundles.SIDE)).astype(np.float32)
INFER, CLASSIFY = "/v2/models/toy-model/infer", "/api/v1/classify"
ENTRY = {"name": "pixels", "datatype": "FP32", "shape": list(PIXELS.shape)}
AS_JSON = json.dumps({"inputs": [{**ENTRY, "data": PIXELS.ravel().tolist()}], "id": "é"}).encode()
HEAD = json.dumps({"inputs": [{**ENTRY, "parameters": {"binary_data_size": PIXELS.nbytes}}]}).encode()
LENGTH = {"Inference-Header-Content-Length": str(len(HEAD))}
BASE64 = json.dumps({"image_base64": base64.b64encode(PICTURE).decode()}).encode()


def post(path: str, content: bytes = b"", kind: str = "application/json", *, method: str = "POST", **headers: str) -> bytes:
    head = {"Host": "x", "Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close", "X-Request-Id": "7", **headers}
    return "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in head.items()), "", ""]).encode() + content


OPEN = {"Connection": "keep-alive"}
CHUNKED = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
REQUESTS = {
    "json": post(INFER, AS_JSON),
    "binary": post(INFER, HEAD + PIXELS.tobytes(), **LENGTH),
    "version": post("/v2/models/toy-model/versions/1/infer", AS_JSON),
    "picture": post(f"{CLASSIFY}?top_k=3", PICTURE, "image/jpeg"),
    "base64": post(CLASSIFY, BASE64),
    "chunked": CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(AS_JSON), AS_JSON),
    "http 1.0": f"POST {INFER} HTTP/1.0\r\nContent-Length: {len(AS_JSON)}\r\n\r\n".encode() + AS_JSON,
    "encoded path": post("/v2/models/toy%2Dmodel/infer", AS_JSON),
    "no such model": post("/v2/models/other/infer", AS_JSON),
    "no such version": post("/v2/models/toy-model/versions/9/infer", AS_JSON),
    "no such path": post("/v2/models/toy-model/versions/infer", AS_JSON),
    "empty name": post("/v2/models//infer", AS_JSON),
    "wrong method": post(INFER, AS_JSON, method="PUT"),
    "no body": post(INFER),
    "no json": post(INFER, b"{"),
    "wrong header length": post(INFER, AS_JSON, **{"Inference-Header-Content-Length": "x"}),
    "wrong base64": post(CLASSIFY, b'{"image_base64": "a b"}'),
    "wrong type": post(CLASSIFY, b"x", "text/plain"),
    "too large": post(INFER, b" " * 100_000),
    "too late": post(CLASSIFY, json.dumps({**json.loads(BASE64), "timeout_seconds": 1e-9}).encode()),
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return write(bundles.picture_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def urls(path: Path) -> Iterator[tuple[str, str]]:
    """The same application, with the hot path and without."""
    with ExitStack() as stack:
        apps = [create_app(Bundle.open(path), objective=20.0, limits=Limits(body_bytes=90_000)) for _ in range(2)]
        yield tuple(stack.enter_context(serving.here(app, hot_path=way))[1] for app, way in zip(apps, (True, False), strict=True))  # type: ignore[misc]


def exchange(url: str, request: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    at = urlsplit(url)
    with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def half_closed(url: str, request: bytes) -> bytes:
    """The same of a client that says at once that it sends no more."""
    at = urlsplit(url)
    with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def alone(answer: bytes) -> bytes:
    """An answer without what may be said of the connection."""
    return without_date(answer).replace(halfclose.INTERIM, b"").replace(b"connection: close\r\n", b"")


def without_date(answer: bytes) -> bytes:
    return re.sub(rb"\r\ndate: [^\r]+", b"", answer)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_is_the_same_on_both_ways(urls: tuple[str, str], name: str) -> None:
    ways = [without_date(exchange(url, REQUESTS[name])) for url in urls]
    assert ways[0] == ways[1]
    assert ways[0].startswith(b"HTTP/1.1 ")


def test_answers_on_one_connection_keep_the_order_of_its_requests(urls: tuple[str, str]) -> None:
    ordinary = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = [
        post(INFER, AS_JSON, **OPEN),
        ordinary,
        post(INFER, b"{", **OPEN),
        post(CLASSIFY, BASE64, **OPEN),
        ordinary,
        post(INFER, AS_JSON),
    ]
    answers = re.findall(rb"HTTP/1.1 (\d+)[^{]*(\{.{5})", exchange(urls[0], b"".join(sent)))
    assert [status for status, _ in answers] == [b"200", b"200", b"400", b"200", b"200", b"200"]
    begins = [begin for _, begin in answers]
    assert begins == [b'{"mode', b'{"name', b'{"erro', b'{"mode', b'{"name', b'{"mode']


NO_HTTP = b"\x00\x01 no HTTP\r\n\r\n"
BROKEN_CHUNK = CHUNKED.replace(b"Connection: close\r\n", b"") + b"zz\r\n"


@pytest.mark.parametrize("broken", [NO_HTTP, BROKEN_CHUNK, b"GET\xff\r\n\r\n"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_is_no_http_is_told_after_the_answers_to_those_before_it(urls: tuple[str, str], before: int, broken: bytes) -> None:
    good = [
        post(INFER, AS_JSON, Connection="keep-alive"),
        post(CLASSIFY, BASE64, Connection="keep-alive"),
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    answer = exchange(urls[0], b"".join([*good[:before], broken]) + post(INFER, AS_JSON))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * before + [b"400"]
    assert answer.endswith(b"Invalid HTTP request received.")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whether somebody is there")
@pytest.mark.parametrize(
    "name", ["json", "binary", "picture", "http 1.0", "chunked", "wrong base64", "no such path", "kept alive", "probe"]
)
def test_who_half_closes_after_his_request_gets_the_same_answer_and_then_the_end(urls: tuple[str, str], name: str) -> None:
    requests = {**REQUESTS, "kept alive": post(INFER, AS_JSON, **OPEN), "probe": post("/v2/health/ready", method="GET")}
    whole = exchange(urls[0], requests[name].replace(b"keep-alive", b"close"))
    assert alone(half_closed(urls[0], requests[name])) == alone(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whether somebody is there")
def test_who_half_closes_after_several_requests_gets_all_answers(urls: tuple[str, str]) -> None:
    answers = half_closed(urls[0], post(INFER, AS_JSON, **OPEN) * 3 + b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", alone(answers)) == [b"200"] * 4


def test_who_half_closes_within_a_request_is_closed_without_an_answer(urls: tuple[str, str]) -> None:
    assert half_closed(urls[0], post(INFER, AS_JSON)[:-1]) == b""


def test_who_goes_on_sending_what_is_no_http_still_reads_all_answers(urls: tuple[str, str]) -> None:
    """More than is read at once: a connection that is closed with something unread is reset, and answers under way are lost."""
    at = urlsplit(urls[0])
    good = post(INFER, AS_JSON, Connection="keep-alive")
    with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
        for part in (good, NO_HTTP, *[bytes(65536)] * 20):
            connection.sendall(part)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"400"]


def test_a_body_is_asked_for_where_the_client_waits_for_that(urls: tuple[str, str]) -> None:
    head, _, body = post(INFER, AS_JSON, Expect="100-continue").partition(b"\r\n\r\n")
    at = urlsplit(urls[0])
    with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_what_nobody_expected_is_one_line_for_the_client_and_a_traceback_in_the_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(Bundle.open(path))

    async def broken(request: object) -> Response:
        raise ZeroDivisionError("secret")

    for route in app.routes:
        if getattr(route, "path", "") == INFER.replace("toy-model", "{name}"):
            route.endpoint = broken  # type: ignore[attr-defined]
    with serving.here(app) as (_, url):
        answer = exchange(url, REQUESTS["json"])
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.endswith(b'{"error":"internal error (ZeroDivisionError)"}')
    assert "secret" in caplog.text


KEYS = {name: f"{name}-0123456789abcdef" for name in ("free", "slow", "narrow")}
LIMITS = {"free": {}, "slow": {"requests_per_second": 0.25, "burst": 2.0}, "narrow": {"concurrency": 1}}
WITH_KEYS = {
    "none": [{}],
    "wrong": [{"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}, {"Authorization": f"Basic {KEYS['free']}"}, {"X-API-Key": ""}],
    "right": [{"Authorization": f"Bearer {KEYS['free']}"}, {"X-Api-Key": KEYS["free"]}, {"authorization": f"bearer  {KEYS['free']} "}],
    "two": [
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEYS['free']}"},
        {"Authorization": f"Bearer {KEYS['free']}", "X-API-Key": "wrong"},
    ],
    "too fast": [{"X-API-Key": KEYS["slow"]}] * 4,
    "no letters": [{"X-API-Key": "ünïcode"}, {"Authorization": "Bearer " + "a" * 30_000}],
}


@pytest.fixture(scope="module")
def guarded(path: Path) -> Iterator[tuple[str, str]]:
    """The same application with keys, with the hot path and without. The clock of their rates stands still."""
    rights = {name: Rights(sha256=hashlib.sha256(key.encode()).hexdigest(), **LIMITS[name]) for name, key in KEYS.items()}
    with ExitStack() as stack:
        apps = [create_app(Bundle.open(path), door=Door(access=Access(rights, clock=lambda: 0.0))) for _ in range(2)]
        assert all(hot.protocol(app) != "auto" for app in apps), "keys do not close the fast path"
        yield tuple(stack.enter_context(serving.here(app, hot_path=way))[1] for app, way in zip(apps, (True, False), strict=True))  # type: ignore[misc]


@pytest.mark.parametrize("given", WITH_KEYS)
def test_keys_are_checked_alike_on_both_ways(guarded: tuple[str, str], given: str) -> None:
    answers = []
    for url in guarded:
        requests = [(post(INFER, AS_JSON, **key), post(CLASSIFY, BASE64, **key)) for key in WITH_KEYS[given]]
        answers.append([without_date(exchange(url, request)) for both in requests for request in both])
    assert answers[0] == answers[1]
    statuses = {"right": {200}, "two": {200, 401}, "too fast": {200, 429}}.get(given, {401})
    assert {int(answer[9:12]) for answer in answers[0]} == statuses


def test_a_key_has_as_many_requests_under_way_on_both_ways(path: Path) -> None:
    """Also where a request fails, or its client leaves: none of them counts for ever."""
    answers = []
    for way in (True, False):
        rights = {"narrow": Rights(sha256=hashlib.sha256(KEYS["narrow"].encode()).hexdigest(), concurrency=1)}
        with serving.here(create_app(Bundle.open(path), door=Door(access=Access(rights))), hot_path=way) as (_, url):
            key = {"X-API-Key": KEYS["narrow"]}
            at = urlsplit(url)
            head = post(INFER, AS_JSON, **key).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            with socket.create_connection((at.hostname, at.port), timeout=30) as unfinished:
                unfinished.sendall(head)
                while not (refused := exchange(url, post(INFER, AS_JSON, **key))).startswith(b"HTTP/1.1 429 "):
                    pass
            while exchange(url, post(INFER, b"{", **key)).startswith(b"HTTP/1.1 429 "):
                pass  # until the server has seen that he left
            answers.append([without_date(refused), without_date(exchange(url, post(INFER, AS_JSON, **key)))])
    assert answers[0] == answers[1]
    assert answers[0][1].startswith(b"HTTP/1.1 200 ")


def test_middleware_sees_every_request(path: Path) -> None:
    app = create_app(Bundle.open(path))
    assert hot.protocol(app) != "auto"
    assert {getattr(route, "path", "") for route in app.routes} >= set(hot.HOT)
    assert hot.protocol(Starlette(middleware=[Middleware(CORSMiddleware)])) == "auto"
