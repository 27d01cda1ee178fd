"""Inference requests as JSON whose numbers lie flat: read into arrays, without a Python object for each number."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from ..core.need import has, need
from .codec import parse_json

WORTH_BYTES = 4096
"""Smaller requests are read as quickly by the ordinary reader."""

_KINDS = {"F": ("d", np.float64), "I": ("i", np.int64), "U": ("u", np.uint64)}
"""The first letter of a datatype (FP32, INT8, UINT8) -> how simdjson hands out numbers that hold all of its values."""


def parse_infer(body: bytes | memoryview) -> dict[str, Any]:
    """The JSON object of an inference request, as `parse_json` reads it; but `data` of an input is an array [n] where it was a flat
    list of numbers of its datatype's kind. Raises DataError.
    """
    if len(body) < WORTH_BYTES or not has("simdjson"):
        return parse_json(bytes(body))
    try:
        content = _read(bytes(body))
    except (ValueError, RuntimeError):
        content = None
    return parse_json(bytes(body)) if content is None else content  # which says what is wrong


def _read(body: bytes) -> dict[str, Any] | None:
    """None where lists lie in lists: simdjson would flatten them, whatever their lengths."""
    document = _parser().parse(body)
    values = _fields(document) if isinstance(document, _kind("Object")) else {}
    inputs = values.get("inputs")
    if not isinstance(inputs, _kind("Array")):
        return None
    if body.count(b"[") != 1 + 2 * len(inputs) + ("outputs" in values):  # inputs, a shape and data of each, outputs
        return None
    return {key: [_entry(entry) for entry in value] if key == "inputs" else _plain(value) for key, value in values.items()}


def _fields(value: Any) -> dict[str, Any]:
    """What an object holds, its own objects and lists not yet looked into. Raises ValueError where a name is there twice."""
    names = list(value.keys())
    if len(set(names)) < len(names):
        raise ValueError("of two values, simdjson takes the first, and everybody else the last")
    return {name: value[name] for name in names}


def _entry(entry: Any) -> Any:
    if not isinstance(entry, _kind("Object")):
        return _plain(entry)
    values = _fields(entry)
    return {key: _numbers(value, values.get("datatype")) if key == "data" else _plain(value) for key, value in values.items()}


def _numbers(value: Any, datatype: Any) -> Any:
    kind = _KINDS.get(str(datatype)[:1])
    if kind is None or not isinstance(value, _kind("Array")):
        return _plain(value)
    try:
        return np.frombuffer(value.as_buffer(of_type=kind[0]), kind[1]).copy()  # the buffer would keep the parser from its next document
    except (TypeError, ValueError):  # other things than such numbers are among them, or nothing is
        return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, _kind("Object")):
        return value.as_dict()
    return value.as_list() if isinstance(value, _kind("Array")) else value


@functools.cache
def _kind(name: str) -> Any:
    return getattr(need("simdjson", why="to read JSON faster"), name)


_local = threading.local()


def _parser() -> Any:
    """This thread's parser, which keeps its memory. No object of its last document is alive: `_read` hands out copies."""
    if not hasattr(_local, "parser"):
        _local.parser = _kind("Parser")()
    return _local.parser
