"""The messages of POST .../infer of the Open Inference Protocol v2: JSON, or JSON followed by tensors as bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import DataError
from ..core.signature import Signature
from . import codec
from .batcher import Outputs
from .flat import parse_infer
from .models import Model
from .schedule import Priority

# Parameters that change what is computed. Ignoring one that we do not have would be a wrong answer.
_NOT_HERE = ("classification", "sequence_id", "shared_memory_region")


class Wanted(NamedTuple):
    """An output that a request asks for. binary: as bytes after the JSON."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """A request, checked against the model's signature. timeout: seconds, infinite where none was given."""

    id: str | None
    tensors: Mapping[str, np.ndarray]
    wanted: Sequence[Wanted]
    timeout: float
    priority: Priority


class Answer(NamedTuple):
    """A response. json_bytes: the length of the JSON in it, where tensors follow as bytes."""

    body: bytes
    json_bytes: int | None = None


def read_request(body: bytes, header_length: int | None, signature: Signature, *, asked: Mapping[str, str] | None = None) -> InferRequest:
    """The request in `body`, whose first `header_length` bytes are JSON (None: all are; 0: all is one tensor).

    asked: `model_name` and `model_version` by the address: a body may say them again, as KServe's client does. Raises DataError.
    """
    if header_length == 0:
        tensors = {signature.inputs[0].name: _only_tensor(body, signature)}
        return _request({}, tensors, signature, binary_default=True)
    if header_length is not None and header_length > len(body):
        raise DataError("Inference-Header-Content-Length", f"must be at most the body's {len(body)} bytes", got=header_length)
    content = parse_infer(body if header_length is None else body[:header_length])
    rest = memoryview(body)[len(body) if header_length is None else header_length :]
    _only(content, "request", {"id", "parameters", "inputs", "outputs", *(asked or ())})
    for name, value in (asked or {}).items():
        if content.get(name) not in (None, value):
            raise DataError(name, f"must be {value}, as the address says", got=content[name])
    if not isinstance(content.get("id", ""), str):
        raise DataError("id", "must be text", got=content["id"])
    return _request(content, _tensors(content, rest, signature), signature)


def may_be_bulk(head: bytes | bytearray) -> bool:
    """Whether the JSON in `head`, which is not read, may give its request a class of its own: a name with a backslash in it can be any."""
    return b'"priority"' in head or b"\\" in head


def read_options(parameters: Mapping[str, Any]) -> tuple[float, Priority]:
    """Seconds that the sender waits and its class: `timeout` is microseconds, 0 for ever; `priority` above 1 is bulk. Raises DataError."""
    for name in _NOT_HERE:
        if parameters.get(name):
            raise DataError(f"parameter {name!r}", "is not supported")
    numbers = {}
    for name in ("timeout", "priority"):
        value = parameters.get(name, 0)
        if type(value) is not int or value < 0:
            raise DataError(f"parameter {name!r}", "must be a whole number, 0 or more", got=value)
        numbers[name] = value
    timeout = numbers["timeout"] / 1e6 if numbers["timeout"] else math.inf
    return timeout, Priority.BULK if numbers["priority"] > 1 else Priority.INTERACTIVE


def write_response(model: Model, request: InferRequest, outputs: Outputs) -> Answer:
    """The answer to `request`. Raises HastenError for what JSON cannot hold."""
    entries, raws = [], []
    for wanted in request.wanted:
        array = outputs[wanted.name]
        entry: dict[str, Any] = {"name": wanted.name, "datatype": codec.datatype(array.dtype), "shape": list(array.shape)}
        if wanted.binary:
            raws.append(codec.to_raw(array))
            entry["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            entry["data"] = np.ascontiguousarray(codec.finite(wanted.name, array).ravel())
        entries.append(entry)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if request.id is not None:
        answer["id"] = request.id
    head = codec.to_json({**answer, "outputs": entries})
    return Answer(body=b"".join([head, *raws]), json_bytes=len(head)) if raws else Answer(body=head)


def _request(
    content: Mapping[str, Any], tensors: Mapping[str, np.ndarray], signature: Signature, *, binary_default: bool = False
) -> InferRequest:
    parameters = _parameters(content, "request")
    timeout, priority = read_options(parameters)
    binary = _flag(parameters, "request", "binary_data_output", binary_default)
    wanted = _wanted(content, [spec.name for spec in signature.outputs], binary)
    return InferRequest(id=content.get("id"), tensors=tensors, wanted=wanted, timeout=timeout, priority=priority)


def _tensors(content: Mapping[str, Any], rest: memoryview, signature: Signature) -> dict[str, np.ndarray]:
    specs = {spec.name: spec for spec in signature.inputs}
    tensors: dict[str, np.ndarray] = {}
    at = 0
    for entry in _entries(content, "inputs"):
        field = f"input {entry['name']!r}"
        _only(entry, field, {"name", "shape", "datatype", "parameters", "data"})
        if entry["name"] not in specs:
            raise DataError(field, "must be one of the model's inputs " + ", ".join(specs))
        if entry["name"] in tensors:
            raise DataError(field, "must be given once")
        spec = specs[entry["name"]]
        codec.check_datatype(field, spec, entry.get("datatype"))
        shape = codec.check_shape(field, entry.get("shape"))
        size = _binary_size(entry, field, len(rest) - at)
        if size is None:
            tensors[spec.name] = codec.from_flat(field, entry["data"], spec, shape)
        else:
            tensors[spec.name] = codec.from_raw(field, rest[at : at + size], spec, shape)
            at += size
    if at != len(rest):
        raise DataError("body", f"must end with the last tensor, {len(rest) - at} bytes earlier")
    return tensors


def _binary_size(entry: Mapping[str, Any], field: str, left: int) -> int | None:
    """How many bytes of the rest are this input's; None where its data are JSON. left: how many there are."""
    parameters = _parameters(entry, field)
    read_options(parameters)
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in entry):
        raise DataError(f"{field} data", "must be given, either as JSON or with the parameter binary_data_size")
    if size is None:
        return None
    if type(size) is not int or not 0 <= size <= left:
        raise DataError(f"{field} binary_data_size", f"must be a whole number from 0 to the {left} bytes that are left", got=size)
    return size


def _only_tensor(body: bytes, signature: Signature) -> np.ndarray:
    """A body without JSON: the one input's bytes, of as many samples as there are."""
    if len(signature.inputs) != 1:
        raise DataError("Inference-Header-Content-Length", "must not be 0 for a model with several inputs", got=0)
    spec = signature.inputs[0]
    rest = spec.shape[1:]
    if not spec.shape or any(n is None for n in rest):
        raise DataError("Inference-Header-Content-Length", f"must not be 0 for a model that takes {spec.shape_text}", got=0)
    one = math.prod(n or 1 for n in rest) * np.dtype(spec.dtype).itemsize
    if len(body) % one:
        raise DataError(f"input {spec.name!r} data", f"must have a multiple of {one} bytes", got=len(body))
    return codec.from_raw(f"input {spec.name!r}", body, spec, (len(body) // one, *(n or 1 for n in rest)))


def _wanted(content: Mapping[str, Any], known: Sequence[str], binary: bool) -> list[Wanted]:
    wanted = []
    for entry in _entries(content, "outputs") if "outputs" in content else ():
        field = f"output {entry['name']!r}"
        if entry["name"] not in known:
            raise DataError(field, "must be one of the model's outputs " + ", ".join(known))
        _only(entry, field, {"name", "parameters"})
        parameters = _parameters(entry, field)
        read_options(parameters)
        wanted.append(Wanted(name=entry["name"], binary=_flag(parameters, field, "binary_data", binary)))
    return wanted or [Wanted(name=name, binary=binary) for name in known]


def _parameters(value: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    parameters = value.get("parameters", {})
    if not isinstance(parameters, dict):
        raise DataError(f"{field} parameters", "must be an object", got=parameters)
    return parameters


def _flag(parameters: Mapping[str, Any], field: str, name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise DataError(f"{field} {name}", "must be true or false", got=value)
    return value


def _entries(request: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = request.get(key)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries):
        raise DataError(key, "must be a list of objects, each with a name", got=entries)
    return entries


def _only(value: Mapping[str, Any], field: str, known: set[str]) -> None:
    if not value.keys() <= known:
        unknown = sorted(set(value) - known)
        raise DataError(field, f"must hold only {', '.join(sorted(known))}", got=unknown[0])
