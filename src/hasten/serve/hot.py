"""The requests that come often, answered where their connection is read.

uvicorn reads the connection (limits, keep-alive, pipelining, shutdown are its own). For the routes in HOT the endpoint is called right
there: no routing, no middleware, no messages between server and application. Endpoints, bodies and errors are those of every
other route; all other requests go the ordinary way, and without the extra `serve` (httptools) these do too.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..core.need import has
from .door import Door
from .problems import told
from .service import CANCELS

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HOT = ("/api/v1/classify", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
_JOINED_BYTES = 65_536  # a longer body is written by itself: copying it behind its head would take longer than the second write

_log = logging.getLogger(__name__)


def protocol(app: Starlette) -> type[asyncio.Protocol] | Literal["auto"]:
    """What `uvicorn.Config(http=...)` takes to answer the hot routes of `app` so; uvicorn's own choice where that cannot be.

    Middleware must see every request: an application that has some gets none of this.
    """
    if app.user_middleware or not has("httptools"):
        return "auto"
    routes = [route for route in app.routes if isinstance(route, Route) and route.path in HOT]
    base, entrance = _protocol(), Door(service=app.state.service)

    class Bound(base):  # type: ignore[misc, valid-type]  # uvicorn makes one for each connection and passes nothing of ours
        hot = routes
        door = entrance

    return Bound


@functools.cache
def _protocol() -> type[HttpToolsProtocol]:
    """The classes, made when httptools is known to be there."""
    import httptools
    from uvicorn.protocols.http import httptools_impl as uvicorn_http
    from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

    class Cycle(uvicorn_http.RequestResponseCycle):
        """One request that is answered here. Whoever leaves before cancels its task."""

        task: asyncio.Task[Any] | None = None

        async def run_asgi(self, app: Any) -> None:
            """What uvicorn starts. app: here the endpoint."""
            self.task = asyncio.current_task()
            endpoint: Callable[[Request], Awaitable[Response]] = app
            request = Request(self.scope, self.receive)  # type: ignore[arg-type]
            try:
                response = await _answered(endpoint, request)
                if self.flow.write_paused:
                    await self.flow.drain()
                self.write(response)
            except asyncio.CancelledError:
                if not self.disconnected:  # the server stops, and waits no longer
                    await self.send_500_response()
            finally:
                self.on_response = lambda: None

        def add(self, body: bytes) -> None:
            """A part of the body. Mostly it is all of it, which `receive` then hands out without a copy."""
            before: Any = self.body
            if not before:
                self.body = body  # type: ignore[assignment]
            elif isinstance(before, bytes):
                self.body = bytearray(before + body)
            else:
                before += body

        def write(self, response: Response) -> None:
            """Send all of it, unless nobody is there."""
            if self.disconnected or self.transport.is_closing():
                return
            body = bytes(response.body)
            head = [uvicorn_http.STATUS_LINE[response.status_code]]
            for name, value in (*self.default_headers, *response.raw_headers):
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

    class Protocol(uvicorn_http.HttpToolsProtocol):
        hot: tuple[Route, ...] = ()
        door: Door
        begun: tuple[Cycle, Any] | None = None  # a request whose head came with the bytes that are being read, and its endpoint

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.begun is not None:
                (cycle, endpoint), self.begun = self.begun, None
                self._begin(cycle, endpoint)

        def _begin(self, cycle: Cycle, endpoint: Any) -> None:
            """Answer a request: at once where it came whole and is refused, else in a task."""
            refusal = None if cycle.more_body or self.flow.write_paused else self.door.refusal(cycle.scope, cycle.body)
            if refusal is None:
                self._start_asgi_task(cycle, endpoint)
            else:
                cycle.write(refusal)

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
            """The endpoint that this request is for, its scope completed; None where it goes the ordinary way."""
            if b"%" in self.url or self.root_path:
                return None
            url = httptools.parse_url(self.url)
            path = url.path.decode("ascii")
            for route in self.hot:
                if match := route.path_regex.match(path):
                    scope: dict[str, Any] = self.scope  # type: ignore[assignment]
                    scope |= {"path": path, "raw_path": url.path, "query_string": url.query or b"", "path_params": match.groupdict()}
                    scope[CANCELS] = True
                    return route.endpoint
            return None

        def _cycle(self, version: str) -> Cycle:
            return Cycle(
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

        def on_body(self, body: bytes) -> None:
            if not isinstance(self.cycle, Cycle) or self.cycle.response_complete:
                super().on_body(body)
                return
            self.cycle.add(body)
            if len(self.cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
                self.cycle.message_event.set()  # below that a request is woken once, when its body is complete

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if isinstance(self.cycle, Cycle) and self.cycle.task is not None and not self.cycle.response_complete:
                self.cycle.task.cancel()

    return Protocol


async def _answered(endpoint: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    """What `endpoint` answers, its errors told as everywhere."""
    try:
        return await endpoint(request)
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        response, expected = await told(request, error)
        if not expected:
            _log.error("a request failed", exc_info=error)
        return response
