"""The access log: one JSON object a line, one line a request, of every protocol.

    {"time": "2026-11-25T19:41:54.123456Z", "id": "7f...", "protocol": "http", "method": "POST",
     "path": "/v2/models/digits/infer", "route": "/v2/models/{name}/infer", "key": "alice", "model": "digits", "version": "2",
     "status": 200, "request_bytes": 3234, "response_bytes": 180, "total_ms": 4.1, "queue_ms": 1.2, "run_ms": 2.0, "batch": 8,
     "trace": null}

What a request has not is null; status: of gRPC its name, 499 and CANCELLED: the client left before the answer. No key, no query and no
body is ever in it. The file is opened by its name for each portion of lines, twenty times a second at most: whoever rotates it moves it
away and does nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ..core.errors import JobError
from . import codec
from .exchange import MOST_TEXT, Exchange

_GATHER_SECONDS = 0.05
_MOST_LINES = 20_000  # that wait for a disk; who comes then is left out
_PATIENCE_SECONDS = 2.0  # at the end, for a pipe that nobody reads

_log = logging.getLogger(__name__)


class AccessLog:
    """Lines for the file `where`, or standard output as "-". They are written by a thread of its own: a disk that is full or slow, or a
    pipe that nobody reads, costs lines, which is told once, and no answer. Raises JobError where it cannot be written to at first.
    """

    def __init__(self, where: Path | str) -> None:
        self._where = str(where)
        self._lines: deque[bytes] = deque()
        self._lost = 0  # lines, since it was told that some are
        self._ailing = self._torn = False  # torn: the last one was written in part
        self._filled, self._stopping = threading.Event(), threading.Event()
        try:
            with self._opened():
                pass
        except OSError as error:
            raise JobError("--access-log", f"cannot be written ({error.strerror or error})", got=self._where) from None
        self._thread = threading.Thread(target=self._work, name="hasten-access-log", daemon=True)
        self._thread.start()

    def put(self, exchange: Exchange, status: int | str, sent: int) -> None:
        """One line, soon. sent: bytes of the answer's body. From any thread."""
        if len(self._lines) >= _MOST_LINES:
            self._lose(1, "they come faster than they are taken")
            return
        self._lines.append(line(exchange, status, sent))
        if not self._filled.is_set():
            self._filled.set()

    def close(self) -> None:
        """Write what is there."""
        self._stopping.set()
        self._filled.set()
        self._thread.join(_PATIENCE_SECONDS)

    def _work(self) -> None:
        stopping = False
        while not stopping:
            self._filled.wait()
            stopping = self._stopping.wait(_GATHER_SECONDS)  # a portion should be worth its opening
            self._filled.clear()
            self._write(b"".join(self._lines.popleft() for _ in range(len(self._lines))))

    def _write(self, lines: bytes) -> None:
        if not lines:
            return
        portion, done = b"\n" * self._torn + lines, 0
        try:
            with self._opened() as file:
                while done < len(portion):
                    done += os.write(file, portion[done:])
        except (OSError, ValueError) as error:  # ValueError: standard output was closed
            self._lose(portion.count(b"\n", max(done, self._torn)), str(error))
        else:
            self._recover()
        if done:
            self._torn = portion[done - 1 : done] != b"\n"

    def _lose(self, count: int, why: str) -> None:
        self._lost += count
        if not self._ailing:
            self._ailing = True
            _log.warning("the access log %s loses lines: %s", self._where, why)

    def _recover(self) -> None:
        if self._ailing:
            _log.warning("the access log %s is written again; %d lines were lost", self._where, self._lost)
            self._lost, self._ailing = 0, False

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        if self._where == "-":
            yield sys.stdout.fileno()
            return
        # O_NONBLOCK: a named pipe that nobody reads is an error, and no wait.
        file = os.open(self._where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        try:
            yield file
        finally:
            os.close(file)


def line(exchange: Exchange, status: int | str, sent: int) -> bytes:
    """The line of one request, with its end."""
    fields = {
        "time": f"{_second(int(exchange.at))}.{int(exchange.at % 1 * 1e6):06}Z",
        "id": exchange.id[:MOST_TEXT],
        "protocol": exchange.protocol,
        "method": exchange.method,
        "path": exchange.path[:MOST_TEXT],
        "route": exchange.route or None,
        "key": exchange.key,
        "model": exchange.model,
        "version": exchange.version,
        "status": status,
        "request_bytes": exchange.received,
        "response_bytes": sent,
        "total_ms": _milliseconds(time.monotonic() - exchange.began),
        "queue_ms": _milliseconds(exchange.queue_seconds),
        "run_ms": _milliseconds(exchange.run_seconds),
        "batch": exchange.batch,
        "trace": exchange.trace,
    }
    return codec.to_json(fields) + b"\n"


@functools.lru_cache(maxsize=4)
def _second(at: int) -> str:
    """Kept, since hundreds of lines are of one second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else int(seconds * 1e6) / 1e3  # four times as fast as round()
