"""REST in the words of the task.

    POST /api/v1/classify          {"image_base64": ..., "top_k": 3}, or the picture itself (image/*), or a form with the file `image`
    GET  /api/v1/openapi.json      all of it, for machines

Errors are problem details (RFC 9457).
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..core.errors import DataError
from ..core.need import need
from . import codec
from .models import Model, Wish
from .openapi import document
from .schedule import Priority
from .service import Service, header, now

FIELDS = ("image_base64", "model", "priority", "timeout_seconds", "top_k")
_MOST_TOP = 1000


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request to classify one picture."""

    picture: bytes
    model: str | None
    top: int
    timeout: float
    priority: Priority


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """The routes."""

    service: Service

    def routes(self) -> list[BaseRoute]:
        return [Route("/api/v1/classify", self.classify, methods=["POST"]), Route("/api/v1/openapi.json", self.openapi)]

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document(self.service.models.names))

    async def classify(self, request: Request) -> Response:
        arrived = now()
        async with self.service.body(request) as body:
            asked = await _read(request, body)
            wish = Wish(arrived=arrived, timeout=asked.timeout, priority=asked.priority)
            async with self.service.assign(request, self.service.models.only(asked.model).name) as chosen:
                model = chosen.model
                if model.bundle.manifest.preprocess is None or not model.bundle.manifest.classifier:
                    raise HTTPException(
                        422, f"{model.name} does not classify pictures: ask it with /v1/predict or /v2/models/{model.name}/infer"
                    )
                size = len(asked.picture) if model.bundle.manifest.preprocess.is_quick(asked.picture) else None
                tensors = await self.service.decode(model, wish, lambda: model.bundle.prepare(asked.picture), size=size)
                outputs = await self.service.infer(request, chosen, tensors, wish)
                size = sum(array.nbytes for array in outputs.values())
                answer = await self.service.encode(model, size, lambda: _answer(model, outputs, asked.top))
        return Response(answer, media_type="application/json", headers=chosen.headers)


def _answer(model: Model, outputs: Mapping[str, Any], top: int) -> bytes:
    for name, array in outputs.items():
        codec.finite(name, array)
    (guesses,) = model.bundle.guesses(outputs, top=top)
    answer = {"model": model.name, "version": model.version, "predictions": [vars(guess) for guess in guesses]}
    return codec.to_json(answer)


async def _read(request: Request, body: bytes) -> _Asked:
    """The request in whichever of its forms. Raises DataError, HTTPException, MissingExtra for a form without the extra `serve`."""
    kind = (header(request, b"content-type") or "").split(";")[0].strip().lower()
    if kind == "application/json":
        fields = codec.parse_json(body)
        return _asked(codec.from_base64("image_base64", fields.get("image_base64")), fields)
    if kind == "multipart/form-data":
        fields = await _form(request, body)
        picture = fields.pop("image", None)
        if not isinstance(picture, bytes):
            raise DataError("image", "must be a file of the form")
        return _asked(picture, {name: _number(name, value) for name, value in fields.items()})
    if kind.startswith("image/") or kind == "application/octet-stream":
        return _asked(body, {name: _number(name, value) for name, value in request.query_params.items()})
    raise HTTPException(415, "send application/json with image_base64, a picture as image/*, or multipart/form-data with the file image")


def _asked(picture: bytes, fields: Mapping[str, Any]) -> _Asked:
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise DataError("request", f"must hold only {', '.join(FIELDS)}", got=unknown[0])
    top, timeout, model, priority = (
        fields.get(n, d) for n, d in (("top_k", 5), ("timeout_seconds", None), ("model", None), ("priority", None))
    )
    if type(top) is not int or not 1 <= top <= _MOST_TOP:
        raise DataError("top_k", f"must be a whole number from 1 to {_MOST_TOP}", got=top)
    if timeout is not None and (type(timeout) not in (int, float) or not 0 < timeout < math.inf):
        raise DataError("timeout_seconds", "must be a number above 0", got=timeout)
    if model is not None and not isinstance(model, str):
        raise DataError("model", "must be text", got=model)
    if priority not in (None, "interactive", "bulk"):
        raise DataError("priority", "must be interactive or bulk", got=priority)
    return _Asked(
        picture=picture,
        model=model,
        top=top,
        timeout=math.inf if timeout is None else float(timeout),
        priority=Priority.BULK if priority == "bulk" else Priority.INTERACTIVE,
    )


def _number(name: str, value: Any) -> Any:
    """The value of a query or a form, where all is text."""
    if name not in ("top_k", "timeout_seconds") or not isinstance(value, str):
        return value
    try:
        return int(value) if name == "top_k" else float(value)
    except ValueError:
        return value


async def _form(request: Request, body: bytes) -> dict[str, Any]:
    """The fields of a form, and its one file as bytes."""
    need("python_multipart", why="to read forms")
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(request.headers, stream(), max_files=1, max_fields=len(FIELDS), max_part_size=10_000)
        parser.spool_max_size = len(body) + 1  # all of it is in memory already: no file, on a disk that may be full
        form = await parser.parse()
    except MultiPartException as error:
        raise DataError("form", error.message.rstrip(".")) from None
    except KeyError:
        raise DataError("form", "must name its boundary in the content type") from None
    try:
        return {name: value if isinstance(value, str) else await value.read() for name, value in form.items()}
    finally:
        await form.close()
