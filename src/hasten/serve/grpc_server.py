"""Open Inference Protocol v2 over gRPC, on the same models, queues and limits as over HTTP.

NOT_FOUND: no such model; INVALID_ARGUMENT: the request is wrong; FAILED_PRECONDITION: a new version cannot be taken into service;
UNAUTHENTICATED, PERMISSION_DENIED: not for this key; RESOURCE_EXHAUSTED: the queue is full, or this key asks too much; UNAVAILABLE: it
cannot be answered in time, both with retry-after (seconds) in the trailing metadata; INTERNAL: the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .._version import __version__
from ..core.errors import (
    DataError,
    HastenError,
    NotAllowed,
    NotKnown,
    NotLoaded,
    NotPossibleHere,
    Overloaded,
    QueueFull,
    RateLimited,
    UnknownModel,
)
from ..core.need import need
from ..core.signature import Signature, TensorSpec
from . import codec, messages
from .batcher import Outputs
from .control import LOAD, UNLOAD, read_parameters
from .door import Given
from .exchange import CURRENT, REQUEST_ID, Exchange, is_header
from .infer import read_options
from .models import Wish
from .oip import EXTENSIONS, metadata
from .router import Assignment
from .service import STICKY_KEY, Service, now
from .tls import Tls

_STATUS_OF = {
    UnknownModel: "NOT_FOUND",
    NotLoaded: "FAILED_PRECONDITION",
    DataError: "INVALID_ARGUMENT",
    NotKnown: "UNAUTHENTICATED",
    NotAllowed: "PERMISSION_DENIED",
    RateLimited: "RESOURCE_EXHAUSTED",
    QueueFull: "RESOURCE_EXHAUSTED",
    Overloaded: "UNAVAILABLE",
    HastenError: "INTERNAL",
}
_FIELD_OF = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where numbers lie that are not sent as bytes. FP16 has no place there."""

_OPEN = ("ServerLive", "ServerReady")  # probes carry no key
_IN_FLIGHT = 64  # requests of one stream that are worked on at once
_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def running(service: Service, host: str, port: int, *, grace: float, tls: Tls | None = None) -> AsyncIterator[int]:
    """A gRPC server on `host`, as long as this lasts; its port. grace: seconds for calls under way at the end.

    Raises NotPossibleHere, MissingExtra.
    """
    aio = need("grpc.aio", why="to speak gRPC")
    limit = service.limits.body_bytes
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", -1)]
    server = aio.server(options=options)
    server.add_generic_rpc_handlers((_handlers(service),))
    try:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        bound = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls.of_grpc())
    except RuntimeError:
        raise NotPossibleHere(
            "--grpc-port", f"{port} cannot be listened on at {host}", hint="Name another one; 0 takes any free one"
        ) from None
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(grace)


def _handlers(service: Service) -> Any:
    """Messages are read and written here, not by grpc, which would call one that cannot be read its own failure."""
    grpc = need("grpc", why="to speak gRPC")
    handlers = {}
    for name, (request, _) in messages.methods().items():
        if name == "ModelStreamInfer":
            handlers[name] = grpc.stream_stream_rpc_method_handler(_stream(service, request))
        else:
            handlers[name] = grpc.unary_unary_rpc_method_handler(_unary(service, name, request))
    return grpc.method_handlers_generic_handler(messages.SERVICE, handlers)


@dataclass(frozen=True, kw_only=True)
class _Rpc:
    """The methods. Requests and answers are messages of oip.proto."""

    service: Service

    async def server_live(self, request: Any, context: Any) -> Any:
        return messages.message("ServerLiveResponse")(live=True)

    async def server_ready(self, request: Any, context: Any) -> Any:
        return messages.message("ServerReadyResponse")(ready=self.service.models.ready)

    async def model_ready(self, request: Any, context: Any) -> Any:
        """A model that is not there is not ready: that is an answer, no error."""
        ready = False
        with contextlib.suppress(UnknownModel):
            ready = self.service.models.get(request.name, request.version).ready
        return messages.message("ModelReadyResponse")(ready=ready)

    async def server_metadata(self, request: Any, context: Any) -> Any:
        return messages.message("ServerMetadataResponse")(name="hasten", version=__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any, context: Any) -> Any:
        model = self.service.models.get(request.name, request.version)
        return messages.message("ModelMetadataResponse")(**metadata(model, self.service.models.versions(model.name)))

    async def model_infer(self, request: Any, context: Any) -> Any:
        arrived, exchange = now(), CURRENT.get()
        assert exchange is not None
        exchange.id = request.id or exchange.id
        key = dict(_metadata(context)).get(STICKY_KEY)
        async with self.service.router.assign(request.model_name, request.model_version, key=key) as chosen:
            return await self._infer(request, context, chosen, arrived)

    async def _infer(self, request: Any, context: Any, chosen: Assignment, arrived: float) -> Any:
        model = chosen.model
        timeout, priority = read_options(_parameters(request.parameters))
        remaining = context.time_remaining()
        wish = Wish(arrived=arrived, timeout=min(timeout, math.inf if remaining is None else remaining), priority=priority)
        wanted = _wanted(request, model.bundle.signature)
        with self.service.hold(request.ByteSize()):
            with chosen.exchange.stage("decode"):
                tensors = model.bundle.prepare_tensors(_tensors(request, model.bundle.signature))
            outputs = await chosen.infer(tensors, wish)
        with chosen.exchange.stage("encode"):
            return _answer(chosen, wanted, outputs)

    async def repository_index(self, request: Any, context: Any) -> Any:
        entries = self.service.repository.index(ready=request.ready)
        return messages.message("RepositoryIndexResponse")(models=[asdict(entry) for entry in entries])

    async def repository_model_load(self, request: Any, context: Any) -> Any:
        self.service.repository.check_allowed()
        given = read_parameters(_parameters(request.parameters), LOAD)
        await self.service.repository.load(request.model_name, version=given.get("version"), folder=given.get("folder"))
        return messages.message("RepositoryModelLoadResponse")()

    async def repository_model_unload(self, request: Any, context: Any) -> Any:
        self.service.repository.check_allowed()
        given = read_parameters(_parameters(request.parameters), UNLOAD)
        await self.service.repository.unload(request.model_name, version=given.get("version"))
        return messages.message("RepositoryModelUnloadResponse")()


@dataclass(kw_only=True)
class _Ending:
    """How one request ended. sent: bytes of the answer; text, trailing: of an error."""

    status: str = "OK"
    sent: int = 0
    text: str = ""
    trailing: tuple[tuple[str, str], ...] = ()


@contextlib.contextmanager
def _told_of(service: Service, name: str, metadata: Given) -> Iterator[tuple[Exchange, _Ending]]:
    """One request to the method `name` comes in and goes out. Its errors become its ending."""
    method = f"{messages.SERVICE}/{name}"
    exchange, ending = service.door.enter(metadata, protocol="grpc", method=method, path=f"/{method}", route=f"/{method}"), _Ending()
    try:
        yield exchange, ending
    except asyncio.CancelledError:
        ending.status = "CANCELLED"
        raise
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        ending.status, ending.text, ending.trailing = _told(error)
    finally:
        service.door.leave(exchange, ending.status, ending.sent)


def _admitted(service: Service, name: str, exchange: Exchange, metadata: Given) -> contextlib.AbstractContextManager[None]:
    """Raises NotKnown, RateLimited."""
    return contextlib.nullcontext() if name in _OPEN else service.door.admitted(exchange, metadata)


def _unary(service: Service, name: str, kind: Any) -> Callable[[bytes, Any], Awaitable[bytes]]:
    """The method `name`, which takes a message of this kind, from bytes to bytes."""
    rpc = _Rpc(service=service)
    method: Callable[[Any, Any], Awaitable[Any]] = getattr(rpc, _snake(name))

    async def answer(raw: bytes, context: Any) -> bytes:
        metadata = _metadata(context)
        with _told_of(service, name, metadata) as (exchange, ending), _admitted(service, name, exchange, metadata):
            exchange.received = len(raw)
            written: bytes = (await method(_read(kind, raw), context)).SerializeToString()
            ending.sent = len(written)
        marks = ((REQUEST_ID, exchange.id),) if is_header(exchange.id) else ()
        if ending.status != "OK":
            await context.abort(getattr(need("grpc").StatusCode, ending.status), ending.text, (*ending.trailing, *marks))
        context.set_trailing_metadata(marks)
        return written

    return answer


def _stream(service: Service, kind: Any) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]:
    """ModelStreamInfer: each request's answer, in their order. They are worked on together, so that they can share calls."""
    rpc = _Rpc(service=service)

    async def part(raw: bytes, context: Any) -> bytes:
        """The answer to one of them, where an error is a message and ends nothing."""
        answer = messages.message("ModelStreamInferResponse")()
        name, metadata = "ModelStreamInfer", _metadata(context)
        with _told_of(service, name, metadata) as (exchange, ending), _admitted(service, name, exchange, metadata):
            exchange.received = len(raw)
            answer.infer_response.CopyFrom(await rpc.model_infer(_read(kind, raw), context))
            ending.sent = answer.ByteSize()
        if ending.status != "OK":
            answer.error_message, answer.infer_response.id = ending.text, exchange.id
        written: bytes = answer.SerializeToString()
        return written

    async def answer(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        pending: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_IN_FLIGHT)

        async def read() -> None:
            try:
                async for raw in requests:
                    await pending.put(asyncio.create_task(part(raw, context)))
            finally:
                await pending.put(None)

        reader = asyncio.create_task(read())
        task: asyncio.Task[bytes] | None = None
        try:
            while (task := await pending.get()) is not None:
                yield await task
        finally:
            for unfinished in (reader, task, *(pending.get_nowait() for _ in range(pending.qsize()))):
                if unfinished is not None:
                    unfinished.cancel()

    return answer


def _told(error: Exception) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """The status, the text and the trailing metadata of an error: the one place where they are chosen. What is not ours is logged."""
    if not isinstance(error, HastenError):
        _log.error("a gRPC call failed", exc_info=error)
        return "INTERNAL", f"internal error ({type(error).__name__})", ()
    status = next(status for kind, status in _STATUS_OF.items() if isinstance(error, kind))
    later = (("retry-after", str(math.ceil(error.retry_after_seconds))),) if isinstance(error, Overloaded) else ()
    return status, str(error), later


def _answer(chosen: Assignment, wanted: Sequence[str], outputs: Outputs) -> Any:
    model = chosen.model
    answer = messages.message("ModelInferResponse")(model_name=model.name, model_version=model.version, id=chosen.exchange.id)
    for name in wanted:
        array = outputs[name]
        answer.outputs.add(name=name, datatype=codec.datatype(str(array.dtype)), shape=array.shape)
        answer.raw_output_contents.append(codec.to_raw(array))
    return answer


def _read(kind: Any, raw: bytes) -> Any:
    """The message of this kind in `raw`. Raises DataError."""
    try:
        return kind.FromString(raw)
    except need("google.protobuf.message").DecodeError:
        raise DataError("request", f"must be a {kind.DESCRIPTOR.name} as protobuf writes it") from None


def _metadata(context: Any) -> Given:
    """The metadata of a call that is text."""
    return [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]


def _tensors(request: Any, signature: Signature) -> dict[str, np.ndarray]:
    specs = {spec.name: spec for spec in signature.inputs}
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise DataError("raw_input_contents", f"must hold all {len(request.inputs)} inputs or none", got=len(raws))
    tensors: dict[str, np.ndarray] = {}
    for k, entry in enumerate(request.inputs):
        field = f"input {entry.name!r}"
        if entry.name not in specs:
            raise DataError(field, "must be one of the model's inputs " + ", ".join(specs))
        if entry.name in tensors:
            raise DataError(field, "must be given once")
        read_options(_parameters(entry.parameters))
        spec = specs[entry.name]
        codec.check_datatype(field, spec, entry.datatype)
        shape = codec.check_shape(field, list(entry.shape))
        tensors[entry.name] = codec.from_raw(field, raws[k], spec, shape) if raws else _from_contents(field, entry, spec, shape)
    return tensors


def _from_contents(field: str, entry: Any, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    where = _FIELD_OF.get(entry.datatype)
    if where is None:
        raise DataError(f"{field} data", f"must be bytes in raw_input_contents for {entry.datatype}")
    return codec.from_flat(field, list(getattr(entry.contents, where)), spec, shape)


def _wanted(request: Any, signature: Signature) -> list[str]:
    known = [spec.name for spec in signature.outputs]
    for entry in request.outputs:
        if entry.name not in known:
            raise DataError(f"output {entry.name!r}", "must be one of the model's outputs " + ", ".join(known))
        read_options(_parameters(entry.parameters))
    return [entry.name for entry in request.outputs] or known


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in parameters.items()}


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
