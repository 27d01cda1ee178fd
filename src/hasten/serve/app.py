"""The server of one process, as an ASGI application: the routes of `oip` and `predict`, and the one place where errors become answers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ..bundle.read import Bundle
from ..core.errors import DataError, HastenError, Overloaded, QueueFull, UnknownModel
from .models import MAX_QUEUE, Model, Models
from .oip import Oip
from .predict import Predict
from .service import Limits, Service

STATUS_OF = {UnknownModel: 404, DataError: 400, QueueFull: 429, Overloaded: 503, HastenError: 500}
"""The HTTP status of an error of ours: bad data are the caller's fault, too much is nobody's, the rest is ours."""


def create_app(
    *bundles: Bundle,
    names: Sequence[str] = (),
    objective: float = math.inf,
    max_queue: int = MAX_QUEUE,
    limits: Limits | None = None,
) -> Starlette:
    """The server of `bundles`, whose programs are loaded at start-up and let go at shutdown.

    names: what they are called, where not by their own names; objective: seconds from a request's arrival to its answer, or infinity;
    max_queue: requests of one class that may wait for one model.
    """
    named = list(zip(names or [bundle.name for bundle in bundles], bundles, strict=True))
    models = Models.of(named, lambda name, version, bundle: Model(name, version, bundle, objective=objective, max_queue=max_queue))
    service = Service(models=models, limits=limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await to_thread.run_sync(models.load)
        yield
        await models.close()

    app = Starlette(
        routes=[*Predict(service=service).routes(), *Oip(service=service).routes()],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, HastenError: _our_error, ClientDisconnect: _gone, Exception: _unexpected},
    )
    app.state.models = models
    return app


async def _our_error(request: Request, error: Exception) -> Response:
    status = next(status for kind, status in STATUS_OF.items() if isinstance(error, kind))
    headers = {"Retry-After": str(math.ceil(error.retry_after_seconds))} if isinstance(error, Overloaded) else {}
    return _error(status, str(error), headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return _error(400, "the client went away")


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises it again after this answer, so that the server's log has the traceback and the client has not.
    return _error(500, f"internal error ({type(error).__name__})")


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=headers)
