"""The server of one process, as an ASGI application."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Sequence

from anyio import to_thread
from starlette.applications import Starlette

from ..bundle.read import Bundle
from ..core.need import has
from .metrics import Metrics
from .models import MAX_QUEUE, Model, Models
from .oip import Oip
from .predict import Predict
from .problems import HANDLERS
from .service import Limits, Service
from .tasks import Tasks
from .watch import Watch


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
    metrics = Metrics() if has("prometheus_client") else None
    named = list(zip(names or [bundle.name for bundle in bundles], bundles, strict=True))
    models = Models.of(
        named,
        lambda name, version, bundle: Model(name, version, bundle, objective=objective, max_queue=max_queue, metrics=metrics),
    )
    service = Service(models=models, metrics=metrics, limits=limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await to_thread.run_sync(models.load)
        yield
        await models.close()

    app = Starlette(
        routes=[route for kind in (Predict, Oip, Tasks, Watch) for route in kind(service=service).routes()],
        lifespan=lifespan,
        exception_handlers=dict(HANDLERS),
    )
    app.state.service = service
    return app
