"""One request and what became of it: what access log and traces tell. Nothing here does I/O."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .feedback import MOST_ID
from .meter import Call

REQUEST_ID = "x-request-id"
"""The header, and the metadata over gRPC, that a request's id comes and goes in."""

MOST_TEXT = 256
"""Characters that are told of what a client chose: an id may be as long as a body."""


def new_id() -> str:
    """One that nobody guesses, so that nobody else judges the answer."""
    return os.urandom(16).hex()


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """One request. Seconds are those of time.monotonic(), but for `at`.

    id: by which its sender may speak of it later; protocol: http or grpc; method: GET, or the one of the gRPC service; path: as it was
    asked; route: its pattern, empty where it is none of ours; at: when it came, seconds since 1970; key: the name of its sender's key;
    received: bytes of its body; stages: what was done for it besides the program's calls, with beginning and end; calls: in which it
    took part, each with when it had got in line; span: of its trace; trace: the trace's name, where it is recorded.
    """

    id: str = field(default_factory=new_id)
    protocol: str = "http"
    method: str = ""
    path: str = ""
    route: str = ""
    began: float = field(default_factory=time.monotonic)
    at: float = field(default_factory=time.time)
    key: str | None = None
    model: str | None = None
    version: str | None = None
    received: int = 0
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    calls: list[tuple[float, Call]] = field(default_factory=list)
    span: Any = None
    trace: str | None = None

    def called(self, call: Call, arrived: float) -> None:
        """It took part in `call` and had got in line at `arrived`."""
        self.calls.append((arrived, call))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is done meanwhile is the stage `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.stages.append((name, began, time.monotonic()))

    @property
    def queue_seconds(self) -> float | None:
        """From when it got in line until its first call; None where none was made for it."""
        return min(call.began for _, call in self.calls) - min(arrived for arrived, _ in self.calls) if self.calls else None

    @property
    def run_seconds(self) -> float | None:
        """All of its calls together."""
        return sum(call.ended - call.began for _, call in self.calls) if self.calls else None

    @property
    def batch(self) -> int | None:
        """Samples in its largest call, those of others too."""
        return max(call.size for _, call in self.calls) if self.calls else None


CURRENT: ContextVar[Exchange | None] = ContextVar("hasten_exchange", default=None)
"""The request that is being answered here; None where nobody asked."""


def is_header(text: str) -> bool:
    """Whether `text` can be the id in a header: one from a body may hold a line's end, or be as long as the body."""
    return 0 < len(text) <= MOST_ID and text.isascii() and text.isprintable()


def given_id(given: Sequence[tuple[str, str]]) -> str:
    """The id in the headers `given`, else a new one."""
    for name, value in given:
        if name == REQUEST_ID and is_header(value):
            return value
    return new_id()
