"""The requests that come often, answered where their connection is read.

uvicorn reads the connection (limits, keep-alive, pipelining, shutdown are its own). For the routes in HOT the endpoint is called right
there: no routing, no middleware, no messages between server and application. Endpoints, bodies and errors are those of every
other route; all other requests go the ordinary way, and without the extra `serve` (httptools) these do too.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..core.need import has
from . import halfclose
from .door import Door, Given, given, marks
from .doorkeeper import Doorkeeper
from .exchange import Exchange
from .problems import LEFT, told
from .service import CANCELS, WHOLE

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HOT = ("/api/v1/classify", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
_JOINED_BYTES = 65_536  # a longer body is written by itself: copying it behind its head would take longer than the second write
_MOST_URLS, _MOST_URL = 256, 1000  # that are remembered, and bytes of one
_LINGER_SECONDS = 2.0  # for a client who is told that what he sends is no HTTP, and goes on


def protocol(app: Starlette) -> type[asyncio.Protocol] | Literal["auto"]:
    """What `uvicorn.Config(http=...)` takes to answer the hot routes of `app` so; uvicorn's own choice where that cannot be.

    Middleware must see every request: an application that has some besides our own Entrance gets none of this.
    """
    doors = [middleware.kwargs.get("door") for middleware in app.user_middleware]
    if len(doors) != 1 or not isinstance(doors[0], Door) or not has("httptools"):
        return "auto"
    routes = [route for route in app.routes if isinstance(route, Route) and route.path in HOT]
    base = _protocol()
    keeps = Doorkeeper(service=app.state.service) if doors[0].access is None else None  # keys come before everything

    class Bound(base):  # type: ignore[misc, valid-type]  # uvicorn makes one for each connection and passes nothing of ours
        door, keeper = doors[0], keeps
        find = staticmethod(functools.lru_cache(maxsize=_MOST_URLS)(functools.partial(_find, routes)))  # parsed once while it is asked for

    return Bound


@functools.cache
def _cycle_class() -> Any:
    """Cycle, made when httptools is known to be there."""
    from uvicorn.protocols.http import httptools_impl as uvicorn_http

    class Cycle(uvicorn_http.RequestResponseCycle):
        """One request that is answered here. Whoever leaves before cancels its task."""

        task: asyncio.Task[Any] | None = None
        door: Door

        async def run_asgi(self, app: Any) -> None:
            """What uvicorn starts. app: here the route."""
            self.task = asyncio.current_task()
            route: Route = app
            known, status, sent = given(self.scope["headers"]), LEFT, 0
            exchange = self.door.enter(known, method="POST", path=self.scope["path"], route=route.path)
            try:
                request = Request(self.scope, self.receive)  # type: ignore[arg-type]
                response = await _answered(self.door, exchange, known, route, request)
                if self.flow.write_paused:
                    await self.flow.drain()
                if self._write(response, exchange):
                    status, sent = response.status_code, len(response.body)
            except asyncio.CancelledError:
                if not self.disconnected:  # the server stops, and waits no longer
                    status = 500
                    await self.send_500_response()
            finally:
                self.on_response = lambda: None
                self.door.leave(exchange, status, sent)

        def add(self, body: bytes) -> None:
            """A part of the body. Mostly it is all of it, which `receive` then hands out without a copy."""
            before: Any = self.body
            if not before:
                self.body = body  # type: ignore[assignment]
            elif isinstance(before, bytes):
                self.body = bytearray(before + body)
            else:
                before += body

        def refuse(self, response: Response, route: Route) -> None:
            """Answer at once, without a task."""
            exchange = self.door.enter(given(self.scope["headers"]), method="POST", path=self.scope["path"], route=route.path)
            exchange.received = len(self.body)
            there = self._write(response, exchange)
            self.door.leave(exchange, response.status_code if there else LEFT, len(response.body) if there else 0)

        def _write(self, response: Response, exchange: Exchange) -> bool:
            """Whether somebody was there to take it."""
            if self.disconnected or self.transport.is_closing():
                return False
            body = bytes(response.body)
            head = [uvicorn_http.STATUS_LINE[response.status_code]]
            for name, value in (*self.default_headers, *response.raw_headers, *marks(exchange)):
                head += (name, b": ", value, b"\r\n")
            head.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
            if len(body) <= _JOINED_BYTES:
                self.transport.write(b"".join((*head, body)))
            else:
                self.transport.write(b"".join(head))
                self.transport.write(body)
            self.response_started = self.response_complete = True
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
            return True

    return Cycle


@functools.cache
def _protocol() -> type[HttpToolsProtocol]:
    """Protocol, likewise."""
    from uvicorn.protocols.http import httptools_impl as uvicorn_http
    from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

    Cycle = _cycle_class()

    class Protocol(uvicorn_http.HttpToolsProtocol):
        door: Door
        broken: str | None = None  # what to tell of bytes that are no HTTP, when those before them are answered

        keeper: Doorkeeper | None = None
        find: Callable[[bytes], tuple[Route, dict[str, Any]] | None]
        begun: tuple[Any, Any] | None = None  # a request whose head came with the bytes that are being read, and its route

        def data_received(self, data: bytes) -> None:
            if self.broken is None:
                super().data_received(data)
            if self.begun is not None:
                (cycle, route), self.begun = self.begun, None
                if not cycle.disconnected:
                    self._begin(cycle, route)

        def _begin(self, cycle: Any, route: Any) -> None:
            """Answer a request: at once where it came whole and is refused, else in a task."""
            whole = not (cycle.more_body or self.flow.write_paused)
            refusal = self.keeper.refusal(cycle.scope, cycle.body) if whole and self.keeper is not None else None
            if refusal is not None:
                cycle.refuse(refusal, route)
                return
            if whole and not cycle.waiting_for_100_continue:
                self.flow.resume_reading()  # all as `receive` would, and without the way there
                cycle.scope[WHOLE], cycle.body = bytes(cycle.body), b""
            self._start_asgi_task(cycle, route)

        def send_400_response(self, msg: str) -> None:
            """After the answers to the requests before it: uvicorn would write it in the place of the first one's, and close."""
            under_way = self.cycle is not None and not self.cycle.response_complete
            if under_way and self.cycle.more_body:  # the newest one is what is broken
                if not self.pipeline:
                    under_way = False
                elif self.pipeline[0][0] is self.cycle:
                    self.pipeline.popleft()
            if under_way:
                self.broken = msg
                self.flow.pause_reading()
            else:
                self._refuse(msg)

        def on_response_complete(self) -> None:
            last = not self.pipeline
            super().on_response_complete()
            if last and self.broken is not None:
                self._refuse(self.broken)

        def _refuse(self, msg: str) -> None:
            """The last words to this client. What he still sends is not looked at: closing before it is read would be a reset, which takes
            back answers that he has not read."""
            if self.transport.is_closing():
                return
            self.broken = msg
            if self.cycle is not None and not self.cycle.response_complete:
                self._abandon(self.cycle)
            elif self.door.log is not None:
                self.door.log.put(Exchange(), 400, len(msg))
            head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(msg)
            default = [part for name, value in self.server_state.default_headers for part in (name, b": ", value, b"\r\n")]
            self.transport.write(b"".join((uvicorn_http.STATUS_LINE[400], *default, head, msg.encode("ascii"))))
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
                self.loop.call_later(_LINGER_SECONDS, self.transport.close)
            else:
                self.transport.close()

        def _abandon(self, cycle: Any) -> None:
            """End a request that nobody waits for."""
            cycle.disconnected = True
            cycle.message_event.set()
            if isinstance(cycle, Cycle) and cycle.task is not None:
                cycle.task.cancel()

        def on_headers_complete(self) -> None:
            found = self._find() if self.parser.get_method() == b"POST" else None
            if found is None or self.limit_concurrency is not None or self.parser.should_upgrade():
                super().on_headers_complete()
                return
            version = self.parser.get_http_version()
            self.scope["method"], self.scope["http_version"] = "POST", version
            existing, self.cycle = self.cycle, self._cycle(version)
            if existing is None or existing.response_complete:
                self.begun = self.cycle, found
            else:
                self.flow.pause_reading()
                self.pipeline.appendleft((self.cycle, found))

        def _find(self) -> Any:
            """The route that this request is for, its scope completed; None where it goes the ordinary way."""
            if len(self.url) > _MOST_URL or self.root_path or (found := self.find(self.url)) is None:
                return None
            route, known = found
            scope: dict[str, Any] = self.scope  # type: ignore[assignment]
            scope |= known
            scope["path_params"] = {**known["path_params"]}
            return route

        def _cycle(self, version: str) -> Any:
            cycle = Cycle(
                scope=self.scope,
                transport=self.transport,
                flow=self.flow,
                logger=self.logger,
                access_logger=self.access_logger,
                access_log=self.access_log,
                default_headers=self.server_state.default_headers,
                message_event=asyncio.Event(),
                expect_100_continue=self.expect_100_continue,
                keep_alive=version != "1.0" and self.parser.should_keep_alive(),
                on_response=self.on_response_complete,
            )
            cycle.door = self.door
            return cycle

        def on_body(self, body: bytes) -> None:
            if not isinstance(self.cycle, Cycle) or self.cycle.response_complete:
                super().on_body(body)
                return
            self.cycle.add(body)
            if len(self.cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
                self.cycle.message_event.set()  # below that a request is woken once, when its body is complete

        def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn closes at once; asyncio asks whether to keep the way back open
            """The client sends no more. Whoever has sent a whole request gets his answer, the connection's last."""
            cycle = self.cycle
            if cycle is None or cycle.response_complete or cycle.more_body or not halfclose.can_tell(self.transport):
                return False
            cycle.keep_alive = False
            if not self.pipeline:  # otherwise the answer to another request may be half written
                halfclose.ask(self.transport, cycle)
            return True

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.cycle is not None and not self.cycle.response_complete:
                self._abandon(self.cycle)

    return Protocol


def _find(routes: Sequence[Route], url: bytes) -> tuple[Route, dict[str, Any]] | None:
    """The route that `url` is for, and what its scope has besides; None: it goes the ordinary way."""
    import httptools

    if b"%" in url:
        return None
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    for route in routes:
        if match := route.path_regex.match(path):
            found = {"path": path, "raw_path": parsed.path, "query_string": parsed.query or b"", "path_params": match.groupdict()}
            return route, {**found, CANCELS: True}
    return None


async def _answered(door: Door, exchange: Exchange, known: Given, route: Route, request: Request) -> Response:
    """What the endpoint of `route` answers to whom the door lets in, errors told as everywhere."""
    try:
        with door.admitted(exchange, known):
            response: Response = await route.endpoint(request)
            return response
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        return await told(request, error)
