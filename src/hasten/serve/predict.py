"""The page for people, and the short way to an answer.

    GET  /[?model=NAME]                           a page
    POST /v1/predict[?model=NAME][&top=5]         one encoded picture, or {"inputs": {name: nested lists}}

NAME may be left out where one model is served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from ..core.errors import DataError
from . import codec
from .models import Model, Wish
from .page import HEADERS, page
from .service import Service, now


@dataclass(frozen=True, kw_only=True)
class Predict:
    """The routes."""

    service: Service

    def routes(self) -> list[BaseRoute]:
        return [Route("/", self.home), Route("/v1/predict", self.predict, methods=["POST"])]

    async def home(self, request: Request) -> Response:
        models = self.service.models
        model = models.get(request.query_params.get("model") or models.names[0])
        return HTMLResponse(page(model.name, model.bundle, models.names), headers=HEADERS)

    async def predict(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        wish, top, model = Wish(arrived=now()), _top(request), self.service.models.only(request.query_params.get("model"))
        picture = kind.startswith("image/") or kind == "application/octet-stream"
        if not picture and kind != "application/json":
            raise HTTPException(415, "send one picture as image/* or application/octet-stream, or tensors as application/json")
        if picture and model.bundle.manifest.preprocess is None:
            raise HTTPException(415, "this model takes tensors: send application/json")
        async with self.service.body(request) as body:

            def decode() -> dict[str, np.ndarray]:
                return model.bundle.prepare(body) if picture else _nested(model, body)

            async with self.service.assign(request, model.name) as chosen:
                model = chosen.model
                tensors = await self.service.decode(model, wish, decode)
                outputs = await self.service.infer(request, chosen, tensors, wish)
                size = sum(array.nbytes for array in outputs.values())
                answer = await self.service.encode(model, size, lambda: _encode(model, outputs, top, one=picture))
        return Response(answer, media_type="application/json", headers=chosen.headers)


def _nested(model: Model, body: bytes) -> dict[str, np.ndarray]:
    content = codec.parse_json(body)
    inputs = content.get("inputs")
    if not isinstance(inputs, dict) or set(content) != {"inputs"}:
        raise DataError("body", 'must be {"inputs": {name: nested lists}}')
    specs = {spec.name: spec for spec in model.bundle.signature.inputs}
    for name in inputs:
        if name not in specs:
            raise DataError(f"input {name!r}", "must be one of the model's inputs " + ", ".join(specs))
    return model.bundle.prepare_tensors({name: codec.read_nested(value, specs[name]) for name, value in inputs.items()})


def _encode(model: Model, outputs: Mapping[str, np.ndarray], top: int, *, one: bool) -> bytes:
    """one: the answer for a single picture, which is the prediction itself where there are classes."""
    answer: dict[str, Any] = {"outputs": {name: codec.finite(name, array).tolist() for name, array in outputs.items()}}
    if model.bundle.manifest.classifier:
        answer["predictions"] = [
            {"label": row[0].label, "score": row[0].score, "top": [asdict(guess) for guess in row]}
            for row in model.bundle.guesses(outputs, top=top)
        ]
        if one:
            answer = answer["predictions"][0]
    return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()


def _top(request: Request) -> int:
    text = request.query_params.get("top", "5")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 100_000:
        raise HTTPException(400, "top must be a whole number from 1")
    return int(text[:9])
