"""The Open Inference Protocol's names of numpy dtypes, and tensors as its bytes."""

from __future__ import annotations

import functools

import numpy as np

_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
_DTYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in _DATATYPES.items()}


@functools.cache  # the name of a dtype takes numpy microseconds
def datatype(dtype: str | np.dtype) -> str:
    """The protocol's name of a numpy dtype: `float32` is `FP32`; BYTES for what it has no numbers for."""
    return _DATATYPES.get(np.dtype(dtype).name, "BYTES")


def dtype_of(name: str) -> np.dtype | None:
    """The dtype of the protocol's name, little-endian; None for BYTES, BF16 and what is no name."""
    return _DTYPES.get(name)


def to_raw(array: np.ndarray) -> bytes:
    """The bytes of a tensor, little-endian and row-major."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
