"""What every HTTP route shares: bodies within bounds, work off the event loop, and answers while somebody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from ..core.errors import QueueFull
from ..core.machine import usable_cores
from .batcher import Outputs
from .door import Door
from .exchange import CURRENT
from .metrics import Metrics
from .models import Model, Models, Wish
from .reload import Repository
from .router import Assignment, Router
from .traffic import Traffic

T = TypeVar("T")

SMALL_BYTES = 262_144
"""What is not larger is decoded on the event loop: a thread would hold the interpreter as long, and handing it over costs more."""

SMALL_ANSWER_BYTES = 16_384
"""Numbers that are encoded on the event loop. As JSON they take several times the room."""

CANCELS = "hasten.cancels"
"""In a request's scope: its task is cancelled when its client goes away, so that nobody has to watch."""

STICKY_KEY = "hasten-sticky-key"
"""A header of requests: those with one sticky key are answered by one version. The same name is metadata over gRPC."""

WHOLE = "hasten.whole"
"""In a request's scope: its body, where all of it came at once."""

_DECODE_RATE = 0.1  # the weight of the newest picture in the average


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes. body_bytes: of one request, also after decompression; held_bytes: of all bodies that are not yet answered."""

    body_bytes: int = 32_000_000
    held_bytes: int = 512_000_000


@dataclass(kw_only=True)
class Service:
    """Shared by all routes."""

    repository: Repository
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    door: Door = field(default_factory=Door)
    metrics: Metrics | None = None
    limits: Limits = field(default_factory=Limits)
    # Decoding is bounded: each picture may take MAX_PIXELS * 3 bytes.
    pool: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(usable_cores()))
    held: int = 0
    decode_seconds: float = 0.0  # of one picture, a moving average

    def __post_init__(self) -> None:
        self.router = Router(self.models, self.traffic, metrics=self.metrics, recall=self.repository.recall)

    @property
    def models(self) -> Models:
        return self.repository.models

    def assign(self, request: Request, name: str, version: str | None = None) -> contextlib.AbstractAsyncContextManager[Assignment]:
        """The version of `name` that answers `request`. Ask when the body is there: a slow sender must not keep an old version.

        Raises UnknownModel.
        """
        return self.router.assign(name, version, key=header(request, STICKY_KEY.encode()))

    def body(self, request: Request) -> contextlib.AbstractAsyncContextManager[bytes]:
        """The whole body, counted as held while it is worked on. Reading stops where it passes the limit.

        Raises HTTPException, QueueFull, ClientDisconnect.
        """
        return _Body(self.hold(), request)

    def hold(self, size: int = 0) -> Hold:
        """Count `size` bytes as held while this lasts. Raises QueueFull where all requests hold too many."""
        hold = Hold(self)
        hold.more(size)
        return hold

    async def decode(self, model: Model, wish: Wish, function: Callable[[], T], *, size: int | None = None) -> T:
        """`function()`, which makes tensors of `size` bytes: in a thread unless that is little. None: always in a thread, as most pictures.

        Raises Overloaded where it will be too late when a thread has done it, or is too late already when one is free.
        """
        model.check_time(wish, self.decoded(picture=size is None))

        def checked() -> T:
            began = now()
            model.check_time(wish, began)
            try:
                return function()
            finally:
                self.decode_seconds += _DECODE_RATE * (now() - began - self.decode_seconds)

        if size is not None and size <= SMALL_BYTES:
            return await self._timed(model, "decode", function, here=True)
        with model.decoding(wish):
            return await self._timed(model, "decode", checked if size is None else function, here=False)

    def decoded(self, *, picture: bool) -> float:
        """When what came now would be decoded. picture: a thread does it, and those that wait for one are first. An idle pool tries any: it
        has to learn."""
        if not picture or not self.pool.borrowed_tokens:
            return now()
        pool = self.pool.statistics()
        return now() + (1 + pool.tasks_waiting / pool.total_tokens) * self.decode_seconds

    async def encode(self, model: Model, size: int, function: Callable[[], T]) -> T:
        """`function()`, which makes an answer of `size` bytes of numbers: in a thread unless that is little."""
        return await self._timed(model, "encode", function, here=size <= SMALL_ANSWER_BYTES)

    async def _timed(self, model: Model, stage: str, function: Callable[[], T], *, here: bool) -> T:
        began = now()
        try:
            if here:
                return function()
            return await to_thread.run_sync(function, limiter=self.pool)
        finally:
            ended = now()
            model.meter.stage(stage, ended - began)
            if (exchange := CURRENT.get()) is not None:
                exchange.stages.append((stage, began, ended))

    async def infer(self, request: Request, chosen: Assignment, tensors: Mapping[str, np.ndarray], wish: Wish) -> Outputs:
        """The chosen version's outputs. Where the client goes away before, the request leaves the queue.

        Raises ClientDisconnect, Overloaded, HastenError.
        """
        if CANCELS in request.scope:
            return await chosen.infer(tensors, wish)
        answer = asyncio.ensure_future(chosen.infer(tensors, wish))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            return answer.result()
        finally:
            answer.cancel()
            gone.cancel()


@dataclass(slots=True)
class Hold:
    """What one request holds of the bytes that all may hold together."""

    service: Service
    size: int = 0

    def more(self, count: int) -> int:
        """How many they are with `count` more. Raises QueueFull."""
        held, most = self.service.held + count, self.service.limits.held_bytes
        if held > most:
            raise QueueFull(f"{held} bytes of requests are held already", retry_after_seconds=1.0)
        self.service.held = held
        self.size += count
        return self.size

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.service.held -= self.size


@dataclass(slots=True)
class _Body:
    """`Service.body`: by hand, since a generator takes longer than what it does."""

    hold: Hold
    request: Request

    async def __aenter__(self) -> bytes:
        try:
            return await self._read()
        except BaseException:
            self.hold.__exit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.hold.__exit__()

    async def _read(self) -> bytes:
        hold, service = self.hold, self.hold.service
        limit = service.limits.body_bytes
        declared = header(self.request, b"content-length") or ""
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        body: bytes | None = self.request.scope.pop(WHOLE, None)
        if body is None:
            chunks = []
            async for chunk in self.request.stream():
                chunks += [chunk] if chunk else []  # the end is an empty one
                if hold.more(len(chunk)) > limit:
                    raise _too_large(limit)
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        elif hold.more(len(body)) > limit:
            raise _too_large(limit)
        if (exchange := CURRENT.get()) is not None:
            exchange.received = len(body)
        if not body:
            raise HTTPException(400, "the body must not be empty")
        encoding = header(self.request, b"content-encoding")
        if encoding not in (None, "", "identity"):
            body = await to_thread.run_sync(_unpacked, body, encoding, limit, limiter=service.pool)
            hold.more(len(body))
        return body


def header(request: Request, name: bytes) -> str | None:
    """The first header of this name, which is in small letters: as `request.headers`, which looks for it in a slower way."""
    for known, value in request.scope["headers"]:
        if known == name:
            return str(value, "latin-1")
    return None


def now() -> float:
    """When a request came, as deadlines count."""
    return time.monotonic()


async def _gone(request: Request) -> None:
    """Until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """`body` without its compression."""
    if encoding not in ("gzip", "deflate"):
        raise HTTPException(415, "content-encoding must be gzip, deflate or identity")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either of them, told by its head
    try:
        plain = unpack.decompress(body, limit + 1)
    except zlib.error:
        raise HTTPException(400, f"the body is no {encoding}") from None
    if len(plain) > limit:
        raise _too_large(limit)
    if not unpack.eof:
        raise HTTPException(400, f"the body is only the beginning of {encoding}")
    return plain


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body must have at most {limit} bytes")
