"""The server of one process, as an ASGI application."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence

from anyio import to_thread
from starlette.applications import Starlette

from ..bundle.read import Bundle
from ..core.need import has
from .access import Access, Guard
from .control import Control
from .metrics import Metrics
from .models import MAX_QUEUE, Model, Models
from .oip import Oip
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
    access: Access | None = None,
    staffing: Staffing | None = None,
) -> Starlette:
    """The server of `bundles`, whose programs are loaded at start-up and let go at shutdown.

    names: what they are called, where not by their own names; objective: seconds from a request's arrival to its answer, or infinity;
    max_queue: requests of one class that may wait for one model; allow_reload: whether requests may load and unload models;
    traffic: how versions share requests, by model; memory_bytes: for all programs that are loaded together; access: who may ask, None: all;
    staffing: how many processes run each program, None: this one alone.
    """
    metrics = Metrics() if has("prometheus_client") else None
    named = list(zip(names or [bundle.name for bundle in bundles], bundles, strict=True))

    def make(name: str, version: str, bundle: Bundle) -> Model:
        return Model(name, version, bundle, objective=objective, max_queue=max_queue, staffing=staffing or Staffing(), metrics=metrics)

    models = Models.of(named, make)
    repository = Repository(models=models, make=make, allowed=allow_reload, memory_bytes=memory_bytes)
    service = Service(repository=repository, traffic=traffic or {}, access=access, metrics=metrics, limits=limits or Limits())

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
    if access is not None:
        app.add_middleware(Guard, access=access)
    return app
