"""Every request comes in and goes out here, over HTTP and gRPC, on the fast path too: its id, its key, its log line, its trace."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import KEYS, OPEN, Access
from .access_log import AccessLog
from .exchange import CURRENT, REQUEST_ID, Exchange, given_id, is_header
from .problems import LEFT, told
from .tracing import CONTEXT, Tracing

Given = Sequence[tuple[str, str]]

_WANTED = {name.encode(): name for name in (REQUEST_ID, *KEYS, *CONTEXT)}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Door:
    """access: who may ask, None: all; log, tracing: what is kept of requests, None: nothing."""

    access: Access | None = None
    log: AccessLog | None = None
    tracing: Tracing | None = None

    def enter(self, given: Given, *, method: str, path: str, protocol: str = "http", route: str = "") -> Exchange:
        """A request with the headers `given` begins; the others as in its Exchange."""
        exchange = Exchange(id=given_id(given), protocol=protocol, method=method, path=path, route=route)
        if self.tracing is not None:
            self.tracing.began(exchange, given)
        CURRENT.set(exchange)
        return exchange

    def admitted(self, exchange: Exchange, given: Given) -> contextlib.AbstractContextManager[None]:
        """Lets in the sender of `exchange` as long as this lasts. Raises NotKnown, RateLimited."""
        return contextlib.nullcontext() if self.access is None else self.access.admitted(given, exchange)

    def leave(self, exchange: Exchange, status: int | str, sent: int) -> None:
        """It was answered with so many bytes. Raises nothing: an answer does not depend on what is kept of it."""
        try:
            if self.tracing is not None:
                self.tracing.ended(exchange, status, sent)
            if self.log is not None:
                self.log.put(exchange, status, sent)
        except Exception as error:  # noqa: BLE001 - see above
            _log.error("the request %.100s is missing in the access log or its trace", exchange.id, exc_info=error)
        exchange.calls = []  # they hold the exchanges of others, and these hold them

    def close(self) -> None:
        """Write and send what is kept."""
        for kept in (self.log, self.tracing):
            if kept is not None:
                kept.close()


def given(headers: Iterable[tuple[bytes, bytes]]) -> Given:
    """What the door wants of the raw headers of an HTTP request, whose names are in small letters."""
    return [(_WANTED[name], value.decode("latin1")) for name, value in headers if name in _WANTED]


def marks(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """The headers that every answer has."""
    return [(REQUEST_ID.encode(), exchange.id.encode())] if is_header(exchange.id) else []


class Entrance:
    """ASGI: every HTTP request through the door. routes: those of the application."""

    def __init__(self, app: ASGIApp, door: Door, routes: Sequence[BaseRoute]) -> None:
        self._app, self._door = app, door
        self._patterns: dict[Any, str] = {}
        for route in routes:
            if isinstance(route, Route):
                self._patterns.setdefault((route.endpoint, frozenset(route.param_convertors)), route.path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known, status, sent = given(scope["headers"]), LEFT, 0
        exchange = self._door.enter(known, method=scope["method"], path=scope["path"])

        async def answer(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *marks(exchange)]}
            sent += len(message.get("body", b""))
            await send(message)

        try:
            with contextlib.nullcontext() if scope["path"] in OPEN else self._door.admitted(exchange, known):
                await self._app(scope, receive, answer)
        except Exception as error:
            if status != LEFT:
                raise
            await (await told(Request(scope), error))(scope, receive, answer)
        finally:
            exchange.route = self._patterns.get((scope.get("endpoint"), frozenset(scope.get("path_params", ()))), "")
            self._door.leave(exchange, status, sent)
