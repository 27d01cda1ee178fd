"""What a server is asked for, in one record: the command line fills it, `hasten.serve_bundle` and `serve.run.serve` take it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.units import parse_duration, parse_size

MAX_QUEUE = 1024
"""Requests that may wait for one model, where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How bundles are served. The fields are the options of `hasten serve`, which checks them when it starts."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 8000
    """Of HTTP; 0 takes a free one."""
    grpc_port: int | None = None
    """Of gRPC; 0 takes a free one. None: no gRPC."""
    slo: str | float | None = None
    """The service objective, from a request's arrival to its answer, in seconds or as "50ms". Batches are as large as keeps it, and who
    cannot be answered in time is refused at once. None: batches are as large as pays."""
    max_queue: int = MAX_QUEUE
    """Requests of one class that may wait for one model."""
    allow_reload: bool = False
    """Whether requests (the protocol's model repository extension) and SIGHUP may load models anew."""
    split: Sequence[str] = ()
    """Versions that share the requests which name none, with weights: "digits@1=90,digits@2=10"."""
    canary: Sequence[str] = ()
    """"digits@2=5": 5 % of the requests go to version 2, until it is surely worse than the others."""
    shadow: Sequence[str] = ()
    """"digits@2": version 2 gets copies of requests, whose outputs are compared and answer nobody."""
    memory: str | float | None = None
    """For all programs together, in bytes or as "2GB"; who was asked least recently is unloaded, and loaded when asked again."""
    replicas: int | str = 1
    """Processes that run each program, with their part of the cores; 1: the server's own alone; "auto": as many as pay. One that ends is
    started again, and what it computed is computed by another one."""
    isolate: bool = False
    """Run each program in a process of its own even where it is one, so that a crash of the runtime ends no connection."""
    api_keys: Path | str | None = None
    """A file of keys with their limits, as hasten.serve.access shows it. None: whoever reaches the port may ask."""
    tls_cert: Path | str | None = None
    """The server's certificate, a PEM file with its chain."""
    tls_key: Path | str | None = None
    """The key that goes with it."""
    tls_ca: Path | str | None = None
    """Certificates of those who sign callers' certificates, which they then need."""
    access_log: Path | str | None = None
    """Where a line of JSON goes for each request, as hasten.serve.access_log shows it; "-": standard output. None: nowhere."""
    traces: str | None = None
    """Where traces go: what takes OTLP over HTTP there, as "http://127.0.0.1:4318". None: to where OTEL_EXPORTER_OTLP_ENDPOINT says, or
    nowhere."""

    @property
    def objective(self) -> float:
        """Seconds, or infinity. Raises JobError."""
        return math.inf if self.slo is None else parse_duration(self.slo, field="--slo")

    @property
    def memory_bytes(self) -> float:
        """Of all programs together, or infinity. Raises JobError."""
        return math.inf if self.memory is None else parse_size(self.memory, field="--memory")
