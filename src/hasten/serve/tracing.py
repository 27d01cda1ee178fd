"""Traces of requests, for whatever takes OTLP (OpenTelemetry's protocol) over HTTP. Needs the extra `otel`.

    POST /v2/models/{name}/infer       the request, a child of the sender's span where it names one (W3C traceparent)
    ├── decode                         from the body to tensors
    ├── queue                          until the program is free for it
    ├── run                            its call of the program: hasten.batch.size; linked to the requests that shared it
    └── encode                         from tensors to the answer

Spans are made when a request has ended, from the times that were kept anyway. Sampling, batches, time-outs and headers are what the
environment says (OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_EXPORTER_OTLP_*, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .._version import __version__
from ..core.errors import JobError, MissingExtra
from ..core.need import need
from .exchange import MOST_TEXT, Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

CONTEXT = frozenset({"traceparent", "tracestate"})
"""Headers, and metadata over gRPC, that name the sender's span."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FAILED = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})  # of gRPC
_NANO = 1_000_000_000
_PATIENCE_SECONDS = 2.0  # at the end, for a collector that does not answer

_log = logging.getLogger(__name__)


class Tracing:
    """The spans of one server, given to `processor` as they end. Nothing of it is global.

    exporter: what the processor sends them with, so that it can be stopped.
    """

    def __init__(self, processor: SpanProcessor, exporter: SpanExporter | None = None) -> None:
        self._exporter = exporter
        sdk = need("opentelemetry.sdk.trace", why="for traces")
        self._provider = sdk.TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("hasten", __version__)
        self._trace = need("opentelemetry.trace")
        self._nobody = need("opentelemetry.context").Context()
        self._propagator = need("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()

    @classmethod
    def of(cls, url: str | None, environment: Mapping[str, str] = os.environ) -> Tracing | None:
        """What sends spans to `url`, or to where the environment says; None where neither says so.

        The environment may be that of many programs: what is wrong with it is logged, and there are no traces. Raises JobError for a
        `url` that is none, MissingExtra.
        """
        if url is not None:
            at = urlsplit(url)
            if at.scheme not in ("http", "https") or not at.hostname:
                raise JobError("--traces", "must be the address of what takes OTLP over HTTP, such as http://127.0.0.1:4318", got=url)
            return cls._sending(url if at.path.strip("/") else f"{url.rstrip('/')}/v1/traces")
        if not any(environment.get(name) for name in _ENDPOINTS) or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
            return None
        protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
        if protocol != "http/protobuf":
            _log.warning("no traces: OTLP goes out as http/protobuf here, and the environment asks for %s", protocol)
            return None
        try:
            return cls._sending(None)
        except MissingExtra as error:
            _log.warning("no traces, which the environment asks for: %s", error)
            return None

    @classmethod
    def _sending(cls, endpoint: str | None) -> Tracing:
        """None: the exporter asks the environment."""
        why = "for traces"
        exporter = need("opentelemetry.exporter.otlp.proto.http.trace_exporter", why=why).OTLPSpanExporter(endpoint=endpoint)
        return cls(need("opentelemetry.sdk.trace.export", why=why).BatchSpanProcessor(exporter), exporter)

    def began(self, exchange: Exchange, given: Sequence[tuple[str, str]]) -> None:
        """`exchange` came with the headers `given`."""
        carrier = {name: value for name, value in given if name in CONTEXT}
        context = self._propagator.extract(carrier, context=self._nobody) if carrier else self._nobody
        kind, at = self._trace.SpanKind.SERVER, int(exchange.at * _NANO)
        exchange.span = self._tracer.start_span(_name(exchange), context=context, kind=kind, start_time=at)
        if exchange.span.is_recording():
            exchange.trace = f"{exchange.span.get_span_context().trace_id:032x}"

    def ended(self, exchange: Exchange, status: int | str, sent: int) -> None:
        """`exchange` was answered with so many bytes."""
        span = exchange.span
        if not span.is_recording():
            return
        parent = self._trace.set_span_in_context(span, self._nobody)
        offset = exchange.at - exchange.began

        def nanoseconds(moment: float) -> int:
            return int((moment + offset) * _NANO)

        def child(name: str, began: float, ended: float, **options: Any) -> None:
            self._tracer.start_span(name, context=parent, start_time=nanoseconds(began), **options).end(nanoseconds(ended))

        for name, began, ended in exchange.stages:
            child(name, began, ended)
        for arrived, call in exchange.calls:
            child("queue", arrived, call.began)
            others = [w.span.get_span_context() for w in call.witnesses if w is not exchange and isinstance(w, Exchange) and w.trace]
            sizes = {"hasten.batch.size": call.size, "hasten.batch.requests": len(call.witnesses)}
            child("run", call.began, call.ended, attributes=sizes, links=[self._trace.Link(other) for other in others])
        span.update_name(_name(exchange))
        span.set_attributes(_attributes(exchange, status, sent))
        if status in _FAILED or (isinstance(status, int) and status >= 500):
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what has not been sent, if somebody takes it."""
        giving_up = threading.Timer(_PATIENCE_SECONDS, self._give_up)
        giving_up.daemon = True
        giving_up.start()
        self._provider.shutdown()
        giving_up.cancel()

    def _give_up(self) -> None:
        if self._exporter is not None:
            self._exporter.shutdown()


def _resource() -> Any:
    """Who sends the spans: what the environment says, else hasten."""
    resources = need("opentelemetry.sdk.resources")
    known = resources.Resource.create()
    if known.attributes["service.name"].startswith("unknown_service"):
        known = known.merge(resources.Resource({"service.name": "hasten", "service.version": __version__}))
    return known


def _name(exchange: Exchange) -> str:
    """Of few values, whatever is asked for."""
    return exchange.method if exchange.protocol == "grpc" else f"{exchange.method} {exchange.route}".rstrip()


def _attributes(exchange: Exchange, status: int | str, sent: int) -> dict[str, Any]:
    """Those that OpenTelemetry's conventions name, and our own."""
    if exchange.protocol == "grpc":
        service, _, method = exchange.method.partition("/")
        found: dict[str, Any] = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.response.status_code": status}
    else:
        found = {"http.request.method": exchange.method, "url.path": exchange.path[:MOST_TEXT], "http.response.status_code": status}
        found |= {"http.request.body.size": exchange.received, "http.response.body.size": sent}
        found |= {"http.route": exchange.route} if exchange.route else {}
    more = {"hasten.request.id": exchange.id[:MOST_TEXT], "hasten.model": exchange.model}
    more |= {"hasten.model.version": exchange.version, "user.id": exchange.key}
    return found | {name: value for name, value in more.items() if value}
