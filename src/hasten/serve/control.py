"""The model repository extension of the Open Inference Protocol over REST.

    POST /v2/repository/index                     [{"name", "version", "state", "reason"}]; {"ready": true}: only those that answer
    POST /v2/repository/models/NAME/load          from its folders again; {"parameters": {"version": "2", "folder": "new"}}
    POST /v2/repository/models/NAME/unload        {"parameters": {"version": "2"}}

`load` answers when the new version does and the old one is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..core.errors import DataError
from . import codec
from .service import Service

LOAD, UNLOAD = {"version", "folder"}, {"version", "unload_dependents"}
"""The parameters that each takes. No model depends on another, so there are no dependents to unload."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """The routes."""

    service: Service

    def routes(self) -> list[BaseRoute]:
        model = "/v2/repository/models/{name}"
        return [
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route(f"{model}/load", self.load, methods=["POST"]),
            Route(f"{model}/unload", self.unload, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        content = await self._content(request)
        ready = content.get("ready", False)
        if set(content) - {"ready"} or not isinstance(ready, bool):
            raise DataError("body", 'must be {"ready": true} or {"ready": false}')
        return JSONResponse([asdict(entry) for entry in self.service.repository.index(ready=ready)])

    async def load(self, request: Request) -> Response:
        self.service.repository.check_allowed()
        given = read_parameters((await self._content(request)).get("parameters", {}), LOAD)
        await self.service.repository.load(request.path_params["name"], version=given.get("version"), folder=given.get("folder"))
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        self.service.repository.check_allowed()
        given = read_parameters((await self._content(request)).get("parameters", {}), UNLOAD)
        await self.service.repository.unload(request.path_params["name"], version=given.get("version"))
        return JSONResponse({})

    async def _content(self, request: Request) -> dict[str, Any]:
        """The JSON of a body that may be missing."""
        if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
            return {}
        async with self.service.body(request) as body:
            return codec.parse_json(body)


def read_parameters(parameters: Any, known: set[str]) -> Mapping[str, str]:
    """The parameters of a load or unload that are texts. Raises DataError for one that is not `known`."""
    if not isinstance(parameters, dict):
        raise DataError("parameters", "must be an object", got=parameters)
    if unknown := sorted(set(parameters) - known):
        raise DataError("parameters", f"must hold only {', '.join(sorted(known))}", got=unknown[0])
    texts = {name: value for name, value in parameters.items() if name != "unload_dependents"}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise DataError(f"parameter {name!r}", "must be text", got=value)
    return texts
