"""The routes. Health answers while predictions run: those work in threads, the program in one at a time.

    GET  /                               a page for people
    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/NAME[/versions/1], .../ready
    POST /v2/models/NAME[/versions/1]/infer       Open Inference Protocol v2, JSON tensors
    POST /v1/predict[?top=5]                      one encoded picture, or {"inputs": {name: nested lists}}

Every answer but the page is JSON; every failure is {"error": "one line"}.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .._version import __version__
from ..bundle.read import Bundle
from ..core.errors import DataError, HastenError
from ..core.machine import usable_cores
from . import codec
from .page import page

VERSION = "1"
MAX_BODY_BYTES = 32_000_000


def create_app(bundle: Bundle, *, max_body_bytes: int = MAX_BODY_BYTES) -> Starlette:
    """The server of one bundle, whose program is loaded at start-up and let go at shutdown."""
    service = _Service(bundle=bundle, max_body_bytes=max_body_bytes)
    model = f"/v2/models/{bundle.name}"
    routes: list[BaseRoute] = [
        Route("/", service.home),
        *_both("/v2", service.server),
        Route("/v2/health/live", service.live),
        Route("/v2/health/ready", service.ready),
        Route("/v1/predict", _guarded(service.predict), methods=["POST"]),
    ]
    for prefix in (model, f"{model}/versions/{VERSION}"):
        routes += [
            *_both(prefix, service.metadata),
            Route(f"{prefix}/ready", service.model_ready),
            Route(f"{prefix}/infer", _guarded(service.infer), methods=["POST"]),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await to_thread.run_sync(bundle.load, limiter=service.program)
        yield
        await to_thread.run_sync(bundle.close, limiter=service.program)

    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _http_error, Exception: _unexpected})


@dataclass(frozen=True, kw_only=True)
class _Service:
    bundle: Bundle
    max_body_bytes: int
    # The program already uses all the threads of its target: two calls at once would only get in each other's way.
    program: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    # Decoding is bounded too: each picture may take MAX_PIXELS * 3 bytes.
    codec: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(usable_cores()))

    async def home(self, request: Request) -> Response:
        return HTMLResponse(page(self.bundle))

    async def server(self, request: Request) -> Response:
        return JSONResponse({"name": "hasten", "version": __version__, "extensions": []})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return JSONResponse({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        return JSONResponse({"name": self.bundle.name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        signature = self.bundle.signature
        return JSONResponse({
            "name": self.bundle.name,
            "versions": [VERSION],
            "platform": f"hasten_{self.bundle.manifest.runtime.name}",
            "inputs": codec.metadata(signature.inputs),
            "outputs": codec.metadata(signature.outputs),
        })  # fmt: skip

    async def infer(self, request: Request) -> Response:
        if "inference-header-content-length" in request.headers:
            raise HTTPException(415, "binary tensors are not taken: send the data as JSON")
        body = await self._body(request)

        def decode() -> tuple[dict[str, Any], dict[str, np.ndarray], list[str]]:
            content = codec.parse_json(body)
            tensors, wanted = codec.read_infer(content, self.bundle.signature)
            return content, self.bundle.prepare_tensors(tensors), wanted

        content, tensors, wanted = await to_thread.run_sync(decode, limiter=self.codec)
        outputs = await self._run(tensors)

        def encode() -> dict[str, Any]:
            answer: dict[str, Any] = {"model_name": self.bundle.name, "model_version": VERSION}
            if "id" in content:
                answer["id"] = content["id"]
            return {**answer, "outputs": codec.write_outputs(outputs, wanted)}

        return await self._answer(encode)

    async def predict(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        top = _top(request)
        if kind.startswith("image/") or kind == "application/octet-stream":
            if self.bundle.manifest.preprocess is None:
                raise HTTPException(415, "this model takes tensors: send application/json")
            body = await self._body(request)
            tensors = await to_thread.run_sync(self.bundle.prepare, body, limiter=self.codec)
            outputs = await self._run(tensors)
            return await self._answer(lambda: self._one(outputs, top))
        if kind == "application/json":
            body = await self._body(request)
            tensors = await to_thread.run_sync(self._nested, body, limiter=self.codec)
            outputs = await self._run(tensors)
            return await self._answer(lambda: self._many(outputs, top))
        raise HTTPException(415, "send one picture as image/* or application/octet-stream, or tensors as application/json")

    def _nested(self, body: bytes) -> dict[str, np.ndarray]:
        content = codec.parse_json(body)
        inputs = content.get("inputs")
        if not isinstance(inputs, dict) or set(content) != {"inputs"}:
            raise DataError("body", 'must be {"inputs": {name: nested lists}}')
        specs = {spec.name: spec for spec in self.bundle.signature.inputs}
        for name in inputs:
            if name not in specs:
                raise DataError(f"input {name!r}", "must be one of the model's inputs " + ", ".join(specs))
        return self.bundle.prepare_tensors({name: codec.read_nested(value, specs[name]) for name, value in inputs.items()})

    async def _run(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return await to_thread.run_sync(self.bundle.run, tensors, limiter=self.program)

    async def _answer(self, encode: Callable[[], dict[str, Any]]) -> Response:
        def work() -> bytes:
            return json.dumps(encode(), allow_nan=False, separators=(",", ":")).encode()

        return Response(await to_thread.run_sync(work, limiter=self.codec), media_type="application/json")

    def _one(self, outputs: Mapping[str, np.ndarray], top: int) -> dict[str, Any]:
        """The answer for one picture."""
        answer = self._many(outputs, top)
        if "predictions" in answer:
            return dict(answer["predictions"][0])
        return answer

    def _many(self, outputs: Mapping[str, np.ndarray], top: int) -> dict[str, Any]:
        answer: dict[str, Any] = {"outputs": {name: codec.finite(name, array).tolist() for name, array in outputs.items()}}
        if self.bundle.manifest.classifier:
            answer["predictions"] = [
                {"label": row[0].label, "score": row[0].score, "top": [asdict(guess) for guess in row]}
                for row in self.bundle.guesses(outputs, top=top)
            ]
        return answer

    async def _body(self, request: Request) -> bytes:
        """The whole body; reading stops where it passes the limit."""
        limit = self.max_body_bytes
        too_large = HTTPException(413, f"the body must have at most {limit} bytes")
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
        if not body:
            raise HTTPException(400, "the body must not be empty")
        return bytes(body)


def _both(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> list[BaseRoute]:
    return [Route(path, endpoint), Route(path + "/", endpoint)]


def _guarded(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The one place where errors of ours become answers: bad data are the caller's fault, the rest is ours."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except DataError as error:
            return _error(400, str(error))
        except HastenError as error:
            return _error(500, str(error))
        except ClientDisconnect:
            return _error(400, "the client went away")

    return guarded


def _top(request: Request) -> int:
    text = request.query_params.get("top", "5")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 100_000:
        raise HTTPException(400, "top must be a whole number from 1")
    return int(text[:9])


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises it again after this answer, so that the server's log has the traceback and the client has not.
    return _error(500, f"internal error ({type(error).__name__})")


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status)
