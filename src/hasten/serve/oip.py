"""Open Inference Protocol v2 over REST.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/NAME[/versions/V], .../ready
    POST /v2/models/NAME[/versions/V]/infer       tensors as JSON, or as bytes after it (Inference-Header-Content-Length)

Without a version the newest is asked. Failures are {"error": "one line"}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .._version import __version__
from ..core.errors import DataError
from . import codec
from .infer import Answer, InferRequest, may_be_bulk, read_request, write_response
from .models import Model, Wish
from .router import Assignment
from .schedule import Priority
from .service import Service, header, now

HEADER = "Inference-Header-Content-Length"
_HEADER = HEADER.lower().encode()
EXTENSIONS = ("binary_tensor_data", "schedule_policy", "model_repository")


@dataclass(frozen=True, kw_only=True)
class Oip:
    """The routes."""

    service: Service

    def routes(self) -> list[BaseRoute]:
        routes = [*_both("/v2", self.server), *_both("/v2/health/live", self.live), *_both("/v2/health/ready", self.ready)]
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                *_both(path, self.metadata),
                *_both(f"{path}/ready", self.model_ready),
                Route(f"{path}/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def server(self, request: Request) -> Response:
        return JSONResponse({"name": "hasten", "version": __version__, "extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self.service.models.ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        model = self._model(request)
        return JSONResponse({"name": model.name, "ready": model.ready}, status_code=200 if model.ready else 503)

    async def metadata(self, request: Request) -> Response:
        model = self._model(request)
        return JSONResponse(metadata(model, self.service.models.versions(model.name)))

    async def infer(self, request: Request) -> Response:
        arrived, name = now(), self._model(request).name
        version = request.path_params.get("version")
        async with self.service.body(request) as body, self.service.assign(request, name, version) as chosen:
            return await self._answer(request, chosen, body, arrived)

    async def _answer(self, request: Request, chosen: Assignment, body: bytes, arrived: float) -> Response:
        length, model = _header_length(request), chosen.model

        def decode() -> InferRequest:
            asked = {"model_name": model.name, "model_version": model.version}
            read = read_request(body, length, model.bundle.signature, asked=asked)
            return read._replace(tensors=model.bundle.prepare_tensors(read.tensors))

        # Tensors as bytes are not copied, only looked through: that is about 64 times faster than reading JSON.
        size = len(body) if length is None else max(length, len(body) // 64)
        unread = Wish(arrived=arrived, priority=Priority.BULK if may_be_bulk(body[:length]) else Priority.INTERACTIVE)
        asked = await self.service.decode(model, unread, decode, size=size)
        chosen.exchange.id = asked.id or chosen.exchange.id
        wish = Wish(arrived=arrived, timeout=asked.timeout, priority=asked.priority)
        outputs = await self.service.infer(request, chosen, asked.tensors, wish)
        numbers = sum(outputs[wanted.name].nbytes for wanted in asked.wanted if not wanted.binary)
        answer = await self.service.encode(model, numbers, lambda: write_response(model, asked, outputs))
        return _response(answer, chosen.headers)

    def _model(self, request: Request) -> Model:
        return self.service.models.get(request.path_params["name"], request.path_params.get("version"))


def _response(answer: Answer, headers: Mapping[str, str]) -> Response:
    if answer.json_bytes is None:
        return Response(answer.body, media_type="application/json", headers=headers)
    return Response(answer.body, media_type="application/octet-stream", headers={**headers, HEADER: str(answer.json_bytes)})


def metadata(model: Model, versions: list[str]) -> dict[str, Any]:
    """A model as the protocol describes it."""
    signature = model.bundle.signature
    return {
        "name": model.name,
        "versions": versions,
        "platform": model.platform,
        "inputs": codec.metadata(signature.inputs),
        "outputs": codec.metadata(signature.outputs),
    }


def _header_length(request: Request) -> int | None:
    text = header(request, _HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise DataError(HEADER, "must be a whole number, 0 or more", got=text)
    return int(text)


def _both(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> list[BaseRoute]:
    return [Route(path, endpoint), Route(path + "/", endpoint)]
