"""Spans of requests, seen by OpenTelemetry's own exporter and by a receiver that reads its protocol."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from hasten.core.errors import JobError, MissingExtra
from hasten.serve.access_log import AccessLog
from hasten.serve.app import create_app
from hasten.serve.door import Door
from hasten.serve.tracing import Tracing

sdk = pytest.importorskip("opentelemetry.sdk.trace.export", reason="pip install 'hasten[otel]'")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="pip install 'hasten[otel]'")

INFER = "/v2/models/toy-model/infer"
ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SENDER}-01"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("null")
    return write(bundles.null_contents(folder), folder / "out")


@contextmanager
def served(path: Path, *, hot_path: bool = True, program: Held | None = None, **door: Any) -> Iterator[tuple[str, Any]]:
    """The server's address, and where its spans are."""
    spans, bundle = memory.InMemorySpanExporter(), Bundle.open(path)
    if program is not None:
        bundle.__dict__["_program"] = program
    tracing = Tracing(sdk.SimpleSpanProcessor(spans))
    with serving.here(create_app(bundle, door=Door(tracing=tracing, **door)), hot_path=hot_path) as (_, url):
        while not spans.get_finished_spans():
            pass  # of who asked whether it is ready: it ends when that was answered
        spans.clear()
        yield url, spans
    tracing.close()


def tree(spans: Any) -> dict[str, Any]:
    """By name; of one request."""
    return {span.name: span for span in spans.get_finished_spans()}


@pytest.mark.parametrize("hot_path", [True, False])
def test_a_request_is_a_child_of_its_senders_span_and_has_its_stages_below(path: Path, hot_path: bool) -> None:
    with served(path, hot_path=hot_path) as (url, spans):
        reply = httpx.post(url + INFER, json=ONE, headers={**PARENT, "x-request-id": "seven"})
    found = tree(spans)
    request = found.pop("POST /v2/models/{name}/infer")
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, SENDER)
    assert request.kind.name == "SERVER"
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "url.path": INFER,
        "http.route": "/v2/models/{name}/infer",
        "http.response.status_code": 200,
        "http.request.body.size": len(httpx.Request("POST", "http://x", json=ONE).content),
        "http.response.body.size": len(reply.content),
        "hasten.request.id": "seven",
        "hasten.model": "toy-model",
        "hasten.model.version": "1",
    }
    assert found.keys() == {"decode", "queue", "run", "encode"}
    for span in found.values():
        assert (span.context.trace_id, span.parent.span_id) == (request.context.trace_id, request.context.span_id)
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time
    ends = [found[name] for name in ("decode", "queue", "run", "encode")]
    assert all(before.end_time <= after.start_time for before, after in itertools.pairwise(ends))
    assert dict(found["run"].attributes) == {"hasten.batch.size": 1, "hasten.batch.requests": 1}
    assert request.resource.attributes["service.name"] == "hasten"


@pytest.mark.parametrize("hot_path", [True, False])
def test_what_is_wrong_has_its_status_and_no_error(path: Path, hot_path: bool) -> None:
    with served(path, hot_path=hot_path) as (url, spans):
        httpx.post(url + INFER, content=b"{")
    found = tree(spans)
    assert found.keys() == {"POST /v2/models/{name}/infer", "decode"}
    request = found["POST /v2/models/{name}/infer"]
    assert (request.attributes["http.response.status_code"], request.status.status_code.name) == (400, "UNSET")


def test_what_is_the_servers_own_fault_is_an_error(path: Path) -> None:
    program = Held("y", 3)
    with served(path, program=program) as (url, spans):
        program.run = lambda inputs: {"y": np.full((1, 3), np.nan, np.float32)}  # type: ignore[method-assign]
        assert httpx.post(url + INFER, json=ONE).status_code == 500
    request = tree(spans)["POST /v2/models/{name}/infer"]
    assert (request.attributes["http.response.status_code"], request.status.status_code.name) == (500, "ERROR")


def test_names_are_few_whatever_is_asked_for(path: Path) -> None:
    with served(path) as (url, spans):
        for k in range(3):
            httpx.get(f"{url}/nowhere/{k}")
            httpx.get(f"{url}/v2/models/other-{k}/ready")
    assert {span.name for span in spans.get_finished_spans()} == {"GET", "GET /v2/models/{name}/ready"}


def test_requests_that_shared_a_call_are_linked(path: Path) -> None:
    program = Held("y", 3)
    with served(path, program=program) as (url, spans), ThreadPoolExecutor(3) as pool:
        program.hold()

        def post(_: int) -> int:
            return httpx.post(url + INFER, json=ONE, timeout=60).status_code

        first = pool.submit(post, 0)
        assert program.entered.wait(30)
        others = [pool.submit(post, k) for k in (1, 2)]
        while 'queue_length{model="toy-model",version="1"} 2.0' not in httpx.get(f"{url}/metrics").text:
            pass
        program.released.set()
        assert [f.result() for f in (first, *others)] == [200] * 3
    runs = [span for span in spans.get_finished_spans() if span.name == "run"]
    sizes = sorted((span.attributes["hasten.batch.requests"], len(span.links)) for span in runs)
    assert sizes == [(1, 0), (2, 1), (2, 1)]
    (one, other) = [span for span in runs if span.links]
    assert [link.context.span_id for link in one.links] == [other.parent.span_id]
    assert [link.context.span_id for link in other.links] == [one.parent.span_id]
    assert (one.start_time - other.start_time, one.end_time - other.end_time) == pytest.approx((0, 0), abs=1000), "one call"


def test_what_the_sender_does_not_sample_is_answered_and_not_kept(path: Path, tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "log")
    with served(path, log=log) as (url, spans):
        for flags in ("00", "01"):
            assert httpx.post(url + INFER, json=ONE, headers={"traceparent": f"00-{TRACE}-{SENDER}-{flags}"}).status_code == 200
    log.close()
    assert len([span for span in spans.get_finished_spans() if span.name.startswith("POST")]) == 1
    assert [json.loads(line)["trace"] for line in (tmp_path / "log").read_text().splitlines()[1:]] == [None, TRACE]


@pytest.mark.parametrize("given", ["", "00-0-0-01", "zz" * 500, f"00-{'0' * 32}-{SENDER}-01"])
def test_a_traceparent_that_is_none_begins_a_trace(path: Path, given: str) -> None:
    with served(path) as (url, spans):
        assert httpx.post(url + INFER, json=ONE, headers={"traceparent": given}).status_code == 200
    request = tree(spans)["POST /v2/models/{name}/infer"]
    assert request.parent is None
    assert request.context.trace_id


class Receiver:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                outer.requests.append((self.path, collector.ExportTraceServiceRequest.FromString(content)))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[tuple[str, Any]]:
        """With the service that each is of."""
        found = []
        for _, request in self.requests:
            for of in request.resource_spans:
                service = {a.key: a.value.string_value for a in of.resource.attributes}["service.name"]
                found += [(service, span) for scope in of.scope_spans for span in scope.spans]
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def ended(path: Path, **options: Any) -> str:
    """One request to a server of its own, over each protocol, after which it is stopped; its standard error."""
    grpc = pytest.importorskip("tritonclient.grpc")
    with serving.process(path, grpc=True, **options) as (child, (url, grpc_url)):
        assert httpx.post(url + INFER, json=ONE, headers=PARENT).status_code == 200
        with grpc.InferenceServerClient(grpc_url.removeprefix("grpc://")) as client:
            x = grpc.InferInput("x", [1, 2], "FP32")
            x.set_data_from_numpy(np.ones((1, 2), np.float32))
            client.infer("toy-model", [x], headers=PARENT)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
        assert child.stderr is not None
        return child.stderr.read()


def test_a_collector_gets_them_over_otlp(path: Path, receiver: Receiver) -> None:
    assert ended(path, traces=receiver.url) == ""
    assert {where for where, _ in receiver.requests} == {"/v1/traces"}
    assert {service for service, _ in receiver.spans} == {"hasten"}
    assert {span.trace_id.hex() for _, span in receiver.spans} == {TRACE}
    infer = "inference.GRPCInferenceService/ModelInfer"
    names = sorted(span.name for _, span in receiver.spans)
    assert names == ["POST /v2/models/{name}/infer", "decode", "decode", "encode", "encode", infer, "queue", "queue", "run", "run"]
    (rpc,) = [span for _, span in receiver.spans if span.name == infer]
    attributes = {a.key: a.value.string_value for a in rpc.attributes}
    assert (attributes["rpc.method"], attributes["rpc.response.status_code"]) == ("ModelInfer", "OK")
    assert rpc.parent_span_id.hex() == SENDER


def test_the_environment_says_where_and_who(path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    ended(path)
    assert {service for service, _ in receiver.spans} == {"shop"}


def test_a_collector_that_is_not_there_costs_no_answer_and_no_end(path: Path) -> None:
    assert "Connection refused" in ended(path, traces="http://127.0.0.1:9")


def test_the_environment_may_ask_for_what_is_not_here(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}
    assert Tracing.of(None, {}) is None
    assert Tracing.of(None, {**asked, "OTEL_SDK_DISABLED": "true"}) is None
    assert Tracing.of(None, {**asked, "OTEL_TRACES_EXPORTER": "none"}) is None
    assert not caplog.records
    assert Tracing.of(None, {**asked, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert Tracing.of(None, asked) is None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "no traces",
        "no traces, which the environment asks for",
    ]
    with pytest.raises(MissingExtra, match=r'pip install "hasten\[otel\]"'):
        Tracing.of("http://127.0.0.1:4318")


@pytest.mark.parametrize("url", ["collector:4318", "grpc://collector", "http://", "/v1/traces"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(JobError, match="--traces: must be the address of what takes OTLP over HTTP"):
        Tracing.of(url)
