"""What operators read.

GET  /metrics       for Prometheus: queue, batch sizes, stages, refusals, misses of the objective
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..core.need import require
from .service import Service


@dataclass(frozen=True, kw_only=True)
class Watch:
    """The routes."""

    service: Service

    def routes(self) -> list[BaseRoute]:
        return [Route("/metrics", self.metrics)]

    async def metrics(self, request: Request) -> Response:
        if self.service.metrics is None:
            require("prometheus_client", why="for /metrics")
        assert self.service.metrics is not None
        text, kind = self.service.metrics.text()
        return Response(text, headers={"content-type": kind})
