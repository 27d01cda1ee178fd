"""What goes to the server and what comes back, as bytes. No connection is made here."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import numpy as np

from ..core.datatypes import datatype, dtype_of, to_raw
from ..core.errors import DataError, HastenError, MissingExtra, Overloaded, QueueFull, UnknownModel, rebuild
from ..core.guess import Guess

T = TypeVar("T")
Picture = str | Path | bytes | np.ndarray
Priority = Literal["interactive", "bulk"]

_HEADER = "Inference-Header-Content-Length"
_ERRORS: dict[int, type[HastenError]] = {
    400: DataError, 404: UnknownModel, 413: DataError, 415: DataError, 422: DataError, 429: QueueFull, 501: MissingExtra, 503: Overloaded,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Message:
    """One HTTP request."""

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One HTTP response. headers: names in any case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """A question and how its answer is read. make: the request when so many seconds are left; read: raises HastenError."""

    make: Callable[[float], Message]
    read: Callable[[Reply], T]


def get(path: str, read: Callable[[Reply], T]) -> Call[T]:
    """A question without content."""
    return Call(make=lambda left: Message(method="GET", path=path), read=read)


def infer(
    model: str, inputs: Mapping[str, np.ndarray], *, version: str | None, outputs: Sequence[str] | None, priority: Priority
) -> Call[dict[str, np.ndarray]]:
    """Tensors in, tensors out, both as bytes. Raises DataError for a dtype that the protocol has no name for."""
    entries, raws = [], []
    for name, value in inputs.items():
        array = np.asarray(value)
        if (kind := datatype(str(array.dtype))) == "BYTES":
            raise DataError(f"input {name!r}", "must be numbers or truth values", got=str(array.dtype))
        raws.append(to_raw(array))
        size = {"binary_data_size": len(raws[-1])}
        entries.append({"name": name, "datatype": kind, "shape": list(array.shape), "parameters": size})
    content: dict[str, Any] = {"inputs": entries}
    if outputs is not None:
        content["outputs"] = [{"name": name} for name in outputs]

    def make(left: float) -> Message:
        parameters: dict[str, Any] = {"binary_data_output": True}
        if math.isfinite(left):
            parameters["timeout"] = max(1, int(left * 1e6))
        if priority == "bulk":
            parameters["priority"] = 2
        head = json.dumps({**content, "parameters": parameters}, separators=(",", ":")).encode()
        headers = {_HEADER: str(len(head)), "Content-Type": "application/octet-stream"}
        return Message(method="POST", path=f"{model_path(model, version)}/infer", content=b"".join([head, *raws]), headers=headers)

    return Call(make=make, read=_read_tensors)


def classify(picture: Picture, *, model: str | None, top_k: int, priority: Priority) -> Call[list[Guess]]:
    """One picture, as it lies in its file. Raises DataError."""
    content = _encoded(picture)
    params = {"top_k": str(top_k), "priority": priority, **({} if model is None else {"model": model})}

    def make(left: float) -> Message:
        due = {"timeout_seconds": repr(max(left, 1e-6))} if math.isfinite(left) else {}
        headers = {"Content-Type": "application/octet-stream"}
        return Message(method="POST", path="/api/v1/classify", content=content, headers=headers, params={**params, **due})

    return Call(make=make, read=_read_guesses)


def ready_path(model: str | None, version: str | None) -> str:
    """Where readiness is asked, of the server or of one of its models."""
    return "/v2/health/ready" if model is None else f"{model_path(model, version)}/ready"


def model_path(model: str, version: str | None) -> str:
    """Where a model is found."""
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def read_json(reply: Reply) -> dict[str, Any]:
    """The object that a reply holds. Raises HastenError."""
    return _object(reply.content)


def error_of(reply: Reply) -> HastenError:
    """The failure that a reply tells of, in the server's own words, as the class that the server raised."""
    try:
        content = json.loads(reply.content)
        text = content.get("detail") or content["error"]
    except (ValueError, KeyError, AttributeError):
        return HastenError("server", f"answered {reply.status}: is it a server of the Open Inference Protocol?")
    state: dict[str, Any] = {"field": "server", "rule": text, "hint": ""}
    kind = _ERRORS.get(reply.status, HastenError)
    if issubclass(kind, Overloaded):
        state["retry_after_seconds"] = _retry_after(reply)
    if kind is MissingExtra:
        state["package"] = ""
    return rebuild(kind, str(text), state)


def _retry_after(reply: Reply) -> float:
    text = next((value for name, value in reply.headers.items() if name.lower() == "retry-after"), "")
    return float(text) if text.isascii() and text.isdigit() else 1.0  # a date, which the standard allows, is not worth a parser


def _encoded(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise DataError("picture", f"cannot be read ({error.strerror})", got=str(picture)) from None
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise DataError("picture", "must be uint8 [H, W] or [H, W, 3]", got=f"{picture.dtype} {list(picture.shape)}")
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _read_guesses(reply: Reply) -> list[Guess]:
    return [Guess(**guess) for guess in read_json(reply)["predictions"]]


def _read_tensors(reply: Reply) -> dict[str, np.ndarray]:
    text = next((value for name, value in reply.headers.items() if name.lower() == _HEADER.lower()), str(len(reply.content)))
    head, rest = _object(reply.content[: int(text)]), memoryview(reply.content)[int(text) :]
    tensors, at = {}, 0
    for entry in head["outputs"]:
        dtype = dtype_of(entry["datatype"])
        if dtype is None:
            raise HastenError(f"output {entry['name']!r}", "must be numbers or truth values", got=entry["datatype"])
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(entry["data"], dtype)
        else:
            array = np.frombuffer(rest[at : at + size], dtype).copy()  # the caller's own, to be written to
            at += size
        tensors[entry["name"]] = array.reshape(entry["shape"])
    return tensors


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        raise HastenError("server", "did not answer JSON: is it a server of the Open Inference Protocol?") from None
    if not isinstance(value, dict):
        raise HastenError("server", "must answer a JSON object", got=value)
    return value
