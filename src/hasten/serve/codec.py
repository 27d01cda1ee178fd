"""Tensors as JSON and as bytes: the Open Inference Protocol's datatypes, checked strictly both ways."""

from __future__ import annotations

import binascii
import functools
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.datatypes import datatype as datatype
from ..core.datatypes import to_raw as to_raw
from ..core.errors import DataError, HastenError
from ..core.need import has, need
from ..core.signature import TensorSpec

_RAGGED = "must be nested lists whose rows all have the same length"
_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}


def metadata(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    """Inputs or outputs as the protocol describes them; -1 is an axis of any length."""
    return [{"name": s.name, "datatype": datatype(s.dtype), "shape": [-1 if n is None else n for n in s.shape]} for s in specs]


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises DataError; NaN and Infinity are not JSON."""
    try:
        value = _loads()(body)
    except RecursionError:
        raise DataError("body", "is nested too deeply") from None
    except ValueError as error:
        raise DataError("body", f"must be JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError("body", "must be a JSON object", got=type(value).__name__)
    return value


def to_json(value: Any) -> bytes:
    """Compact JSON. Arrays may be in it, in row-major order and without NaN (see `finite`)."""
    return _dumps()(value)


def from_base64(field: str, text: Any) -> bytes:
    """What `text` holds. Raises DataError for anything that is not base64, line breaks included."""
    if not isinstance(text, str):
        raise DataError(field, "must be a picture as base64 text", got=type(text).__name__)
    try:
        return _base64()(text)
    except ValueError as error:
        raise DataError(field, f"must be base64 ({str(error)[:1].lower()}{str(error)[1:]})") from None


@functools.cache
def _dumps() -> Callable[[Any], bytes]:
    """The fastest writer of JSON that is here."""
    if not has("orjson"):
        plain = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=lambda array: array.tolist())
        return lambda value: plain.encode(value).encode()
    orjson = need("orjson")
    dumps: Callable[[Any], bytes] = functools.partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY)
    return dumps


@functools.cache
def _loads() -> Callable[[bytes], Any]:
    """The fastest reader of JSON that is here."""
    if has("orjson"):
        found: Callable[[bytes], Any] = need("orjson").loads
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return functools.partial(json.loads, parse_constant=refuse)


@functools.cache
def _base64() -> Callable[[str], bytes]:
    """The fastest reader of base64 that is here and checks it."""
    if has("pybase64"):
        return functools.partial(need("pybase64").b64decode, validate=True)
    return functools.partial(binascii.a2b_base64, strict_mode=True)


def check_datatype(field: str, spec: TensorSpec, got: Any) -> None:
    """Raises DataError unless `got` is the protocol's name of the tensor's dtype."""
    if got != datatype(spec.dtype):
        raise DataError(f"{field} datatype", f"must be {datatype(spec.dtype)}", got=got)


def check_shape(field: str, shape: Any) -> tuple[int, ...]:
    """A shape as a request gives it. Raises DataError."""
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise DataError(f"{field} shape", "must be a list of whole numbers, 0 or more", got=shape)
    return tuple(shape)


def from_raw(field: str, raw: bytes | memoryview, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor from its bytes, little-endian and row-major. Raises DataError.

    They are copied only where they begin at an odd place, which not every processor reads well.
    """
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{field} data", f"must have {math.prod(shape) * dtype.itemsize} bytes for shape {list(shape)}", got=len(raw))
    if dtype.kind == "b" and (np.frombuffer(raw, np.uint8) > 1).any():
        raise DataError(f"{field} data", "must hold BOOL values, bytes that are 0 or 1")
    array = np.frombuffer(raw, dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{field} data", "must be finite", got="NaN or infinity")
    return array if array.flags.aligned else array.copy()


def from_flat(field: str, data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a declared shape from JSON, flat or nested. Raises DataError."""
    return _to_array(field, data, spec, shape)


def read_nested(value: Any, spec: TensorSpec) -> np.ndarray:
    """A tensor from nested lists, as /v1/predict takes it. Raises DataError."""
    return _to_array(f"input {spec.name!r}", value, spec, None)


def finite(name: str, array: np.ndarray) -> np.ndarray:
    """`array`, or HastenError where it holds NaN or infinity."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise HastenError(f"output {name!r}", "holds NaN or infinity, which JSON cannot carry")
    return array


def _to_array(field: str, data: Any, spec: TensorSpec, shape: tuple[int, ...] | None) -> np.ndarray:
    """data: lists, or an array [n] of numbers of the tensor's kind; shape: the declared one, for which flat data will do; None: data must
    be nested."""
    dtype = np.dtype(spec.dtype)
    found, flat, kinds = (data.shape, data, set[type]()) if isinstance(data, np.ndarray) else _flatten(field, data, _depth(spec, shape))
    if shape is not None and found != shape and (len(found) != 1 or found[0] != math.prod(shape)):
        raise DataError(f"{field} data", f"must have shape {list(shape)}, flat or nested", got=list(found))
    wrong = kinds - _JSON_TYPES.get(dtype.kind, set())
    if wrong:
        raise DataError(f"{field} data", f"must hold {datatype(spec.dtype)} values", got=", ".join(sorted(t.__name__ for t in wrong)))
    if dtype.kind in "iu" and len(flat):
        low, high = (int(flat.min()), int(flat.max())) if isinstance(flat, np.ndarray) else (min(flat), max(flat))
        if not (np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max):
            raise DataError(f"{field} data", f"must lie within {np.iinfo(dtype).min} and {np.iinfo(dtype).max}", got=[low, high])
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype=dtype).reshape(found if shape is None else shape)
    except OverflowError:
        raise DataError(f"{field} data", f"must fit into {datatype(spec.dtype)}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{field} data", f"must be finite and fit into {datatype(spec.dtype)}", got="NaN or infinity")
    return array


def _depth(spec: TensorSpec, shape: tuple[int, ...] | None) -> int:
    return max(len(spec.shape), len(shape or ()))


def _flatten(field: str, data: Any, depth: int) -> tuple[tuple[int, ...], list[Any], set[type]]:
    """The shape of nested lists, all their leaves, and the types of these."""
    shape: list[int] = []
    flat, kinds = [data], {type(data)}
    while kinds == {list}:
        if len(shape) > depth:
            raise DataError(f"{field} data", f"must be nested at most {depth} deep")
        if len(lengths := {len(row) for row in flat}) != 1:
            raise DataError(f"{field} data", _RAGGED)
        shape.append(lengths.pop())
        flat = flat[0] if len(flat) == 1 else list(itertools.chain.from_iterable(flat))
        kinds = set(map(type, flat))
    if list in kinds:
        raise DataError(f"{field} data", _RAGGED)
    return tuple(shape), flat, kinds
