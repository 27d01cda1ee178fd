"""What comes back from those who were answered, and what is concluded from it.

    POST /api/v1/feedback          {"request_id": ..., "label": 3}: what the answer should have been, by the id in X-Request-Id
    GET  /api/v1/experiments       splits, canaries and shadows, with intervals and decisions

Errors are problem details (RFC 9457).
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..core.errors import DataError
from . import codec
from .service import Service


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The routes."""

    service: Service

    def routes(self) -> list[BaseRoute]:
        return [Route("/api/v1/feedback", self.feedback, methods=["POST"]), Route("/api/v1/experiments", self.experiments)]

    async def feedback(self, request: Request) -> Response:
        async with self.service.body(request) as body:
            content = codec.parse_json(body)
        if set(content) != {"request_id", "label"} or not isinstance(content["request_id"], str):
            raise DataError("body", 'must be {"request_id": text, "label": a class or a list of them}')
        found = self.service.router.judge(content["request_id"], content["label"])
        if found is None:
            raise HTTPException(404, "no answer of a classifier with this request_id waits for a label")
        answered, right = found
        told = {"request_id": content["request_id"], "model": answered.model, "version": answered.version, "correct": right}
        return JSONResponse(told)

    async def experiments(self, request: Request) -> Response:
        return JSONResponse({"experiments": [route.document() for route in self.service.router.routes.values()]})
