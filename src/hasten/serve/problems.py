"""Errors as answers: one place for all HTTP routes. Below /api they are problem details (RFC 9457), elsewhere {"error": "one line"}."""

from __future__ import annotations

import http
import json
import logging
import math
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..core.errors import (
    DataError,
    HastenError,
    MissingExtra,
    NotAllowed,
    NotKnown,
    NotLoaded,
    Overloaded,
    QueueFull,
    RateLimited,
    UnknownModel,
)

STATUS_OF = {
    UnknownModel: 404,
    NotLoaded: 400,
    DataError: 400,
    NotKnown: 401,
    NotAllowed: 403,
    RateLimited: 429,
    QueueFull: 429,
    Overloaded: 503,
    MissingExtra: 501,
    HastenError: 500,
}
"""The HTTP status of an error of ours: bad data are the caller's fault, too much is nobody's, the rest is ours."""

LEFT = 499
"""The status of a request whose client left before the answer, for the access log; nginx calls it so too."""

_log = logging.getLogger(__name__)


async def our_error(request: Request, error: Exception) -> Response:
    """An error of hasten's own."""
    return answer_to(request.url.path, error)


def answer_to(path: str, error: Exception) -> Response:
    """What a request to `path` hears of an error of hasten's own."""
    status = next(status for kind, status in STATUS_OF.items() if isinstance(error, kind))
    headers = {"Retry-After": str(math.ceil(error.retry_after_seconds))} if isinstance(error, Overloaded) else {}
    if isinstance(error, NotKnown):
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(path, status, str(error), headers)


async def http_error(request: Request, error: Exception) -> Response:
    """What the routes and Starlette itself raise."""
    assert isinstance(error, HTTPException)
    return _answer(request.url.path, error.status_code, error.detail, error.headers)


async def client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; it ends the exchange."""
    return Response(status_code=LEFT)


async def unexpected(request: Request, error: Exception) -> Response:
    """Anything else: the log has the traceback, and the client has not."""
    return _answer(request.url.path, 500, f"internal error ({type(error).__name__})")


HANDLERS = {HTTPException: http_error, HastenError: our_error, ClientDisconnect: client_gone, Exception: unexpected}
"""Which of these answers which error: the first that it is an instance of."""


async def told(request: Request, error: Exception) -> Response:
    """The answer to an error. One that nobody expected goes into the log."""
    handler = next(handler for kind, handler in HANDLERS.items() if isinstance(error, kind))
    if handler is unexpected:
        _log.error("a request failed", exc_info=error)
    return await handler(request, error)


def _answer(path: str, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    content: dict[str, object] = {"error": text}
    kind = "application/json"
    if path.startswith("/api/"):
        content = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status, "detail": text}
        kind = "application/problem+json"
    return Response(json.dumps(content, separators=(",", ":")), status_code=status, headers=headers, media_type=kind)
