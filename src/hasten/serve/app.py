"""The server of one process, as an ASGI application."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence

from anyio import to_thread
from starlette.applications import Starlette

from ..bundle.read import Bundle
from ..core.need import has
from .control import Control
from .door import Door, Entrance
from .metrics import Metrics
from .models import Model, Models
from .oip import Oip
from .options import MAX_QUEUE
from .predict import Predict
from .problems import HANDLERS
from .reload import Repository
from .service import Limits, Service
from .staffing import Staffing
from .tasks import Tasks
from .traffic import Traffic
from .trials import Trials
from .watch import Watch


def create_app(
    *bundles: Bundle,
    names: Sequence[str] = (),
    objective: float = math.inf,
    max_queue: int = MAX_QUEUE,
    limits: Limits | None = None,
    allow_reload: bool = False,
    traffic: Mapping[str, Traffic] | None = None,
    memory_bytes: float = math.inf,
    door: Door | None = None,
    staffing: Staffing | None = None,
) -> Starlette:
    """The server of `bundles`, whose programs are loaded at start-up and let go at shutdown.

    names: what they are called, where not by their own names; objective: seconds from a request's arrival to its answer, or infinity;
    max_queue: requests of one class that may wait for one model; allow_reload: whether requests may load and unload models;
    traffic: how versions share requests, by model; memory_bytes: for all programs that are loaded together; door: who may
    ask and what is kept of requests, None: all and nothing; whoever made it closes it; staffing: how many processes run
    each program, None: this one alone.
    """
    metrics = Metrics() if has("prometheus_client") else None
    named = list(zip(names or [bundle.name for bundle in bundles], bundles, strict=True))

    def make(name: str, version: str, bundle: Bundle) -> Model:
        return Model(name, version, bundle, objective=objective, max_queue=max_queue, staffing=staffing or Staffing(), metrics=metrics)

    models = Models.of(named, make)
    repository = Repository(models=models, make=make, allowed=allow_reload, memory_bytes=memory_bytes)
    door = door or Door()
    service = Service(repository=repository, traffic=traffic or {}, door=door, metrics=metrics, limits=limits or Limits())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await to_thread.run_sync(models.load)
        yield
        await models.close()

    app = Starlette(
        routes=[route for kind in (Predict, Oip, Control, Tasks, Trials, Watch) for route in kind(service=service).routes()],
        lifespan=lifespan,
        exception_handlers=dict(HANDLERS),
    )
    app.state.service = service
    app.add_middleware(Entrance, door=door, routes=app.routes)
    return app
