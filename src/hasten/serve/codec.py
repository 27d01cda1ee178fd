"""Tensors as JSON: the Open Inference Protocol's datatypes, checked strictly both ways."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import DataError, HastenError
from ..core.signature import Signature, TensorSpec

_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}


def datatype(dtype: str) -> str:
    """The protocol's name of a numpy dtype: `float32` is `FP32`."""
    name = np.dtype(dtype).name
    return _DATATYPES.get(name, "BYTES")


def metadata(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    """Inputs or outputs as the protocol describes them; -1 is an axis of any length."""
    return [{"name": s.name, "datatype": datatype(s.dtype), "shape": [-1 if n is None else n for n in s.shape]} for s in specs]


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises DataError; NaN and Infinity are not JSON."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        value = json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise DataError("body", "is nested too deeply") from None
    except ValueError as error:
        raise DataError("body", f"must be JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError("body", "must be a JSON object", got=type(value).__name__)
    return value


def read_infer(request: Mapping[str, Any], signature: Signature) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of an infer request, and the names of the outputs that it asks for. Raises DataError."""
    _only(request, "request", {"id", "parameters", "inputs", "outputs"})
    if not isinstance(request.get("id", ""), str):
        raise DataError("id", "must be text", got=request["id"])
    specs = {spec.name: spec for spec in signature.inputs}
    tensors: dict[str, np.ndarray] = {}
    for entry in _entries(request, "inputs"):
        _only(entry, f"input {entry['name']!r}", {"name", "shape", "datatype", "parameters", "data"})
        if entry["name"] not in specs:
            raise DataError(f"input {entry['name']!r}", "must be one of the model's inputs " + ", ".join(specs))
        if entry["name"] in tensors:
            raise DataError(f"input {entry['name']!r}", "must be given once")
        tensors[entry["name"]] = _read_tensor(entry, specs[entry["name"]])
    wanted = _wanted(request, [spec.name for spec in signature.outputs])
    return tensors, wanted


def read_nested(value: Any, spec: TensorSpec) -> np.ndarray:
    """A tensor from nested lists, as /v1/predict takes it. Raises DataError."""
    return _to_array(f"input {spec.name!r}", value, spec, None)


def write_outputs(outputs: Mapping[str, np.ndarray], names: list[str]) -> list[dict[str, Any]]:
    """Outputs as the protocol writes them: flat, row-major. Raises HastenError for what JSON cannot hold."""
    return [
        {
            "name": n,
            "datatype": datatype(str(outputs[n].dtype)),
            "shape": list(outputs[n].shape),
            "data": finite(n, outputs[n]).ravel().tolist(),
        }
        for n in names
    ]


def finite(name: str, array: np.ndarray) -> np.ndarray:
    """`array`, or HastenError where it holds NaN or infinity."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise HastenError(f"output {name!r}", "holds NaN or infinity, which JSON cannot carry")
    return array


def _read_tensor(entry: Mapping[str, Any], spec: TensorSpec) -> np.ndarray:
    field = f"input {spec.name!r}"
    if entry.get("datatype") != datatype(spec.dtype):
        raise DataError(f"{field} datatype", f"must be {datatype(spec.dtype)}", got=entry.get("datatype"))
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise DataError(f"{field} shape", "must be a list of whole numbers, 0 or more", got=shape)
    if "data" not in entry:
        raise DataError(f"{field} data", "is missing", hint="Send it as JSON; binary data are not taken")
    return _to_array(field, entry["data"], spec, tuple(shape))


def _to_array(field: str, data: Any, spec: TensorSpec, shape: tuple[int, ...] | None) -> np.ndarray:
    """shape: the declared one, for which flat data will do; None: data must be nested."""
    dtype = np.dtype(spec.dtype)
    found, flat = _flatten(field, data, depth=max(len(spec.shape), len(shape or ())))
    if shape is not None and found != shape and (len(found) != 1 or found[0] != math.prod(shape)):
        raise DataError(f"{field} data", f"must have shape {list(shape)}, flat or nested", got=list(found))
    wrong = set(map(type, flat)) - _JSON_TYPES.get(dtype.kind, set())
    if wrong:
        raise DataError(f"{field} data", f"must hold {datatype(spec.dtype)} values", got=", ".join(sorted(t.__name__ for t in wrong)))
    if dtype.kind in "iu" and flat and not (np.iinfo(dtype).min <= min(flat) and max(flat) <= np.iinfo(dtype).max):
        raise DataError(f"{field} data", f"must lie within {np.iinfo(dtype).min} and {np.iinfo(dtype).max}", got=[min(flat), max(flat)])
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype=dtype).reshape(found if shape is None else shape)
    except OverflowError:
        raise DataError(f"{field} data", f"must fit into {datatype(spec.dtype)}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{field} data", f"must be finite and fit into {datatype(spec.dtype)}", got="NaN or infinity")
    return array


def _flatten(field: str, data: Any, depth: int) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists and all their leaves."""
    shape: list[int] = []
    flat = [data]
    for _ in range(depth + 1):
        kinds = set(map(type, flat))
        if list not in kinds:
            break
        lengths = {len(row) for row in flat} if kinds == {list} else set()
        if len(lengths) != 1:
            raise DataError(f"{field} data", "must be nested lists whose rows all have the same length")
        shape.append(lengths.pop())
        flat = list(itertools.chain.from_iterable(flat))
    if any(type(leaf) is list for leaf in flat[:1]):
        raise DataError(f"{field} data", f"must be nested at most {depth} deep")
    return tuple(shape), flat


def _wanted(request: Mapping[str, Any], known: list[str]) -> list[str]:
    if "outputs" not in request:
        return known
    names = []
    for entry in _entries(request, "outputs"):
        if entry["name"] not in known:
            raise DataError(f"output {entry['name']!r}", "must be one of the model's outputs " + ", ".join(known))
        names.append(entry["name"])
    return names or known


def _entries(request: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = request.get(key)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries):
        raise DataError(key, "must be a list of objects, each with a name", got=entries)
    return entries


def _only(value: Mapping[str, Any], field: str, known: set[str]) -> None:
    if unknown := sorted(set(value) - known):
        raise DataError(field, f"must hold only {', '.join(sorted(known))}", got=unknown[0])
