"""What people hand in (pictures, tensors) -> what the model takes; and real inputs in an .npz without pickles."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import BundleError, DataError
from ..core.preprocess import ImagePreprocess
from ..core.signature import Signature

# Entries of golden.npz: kind, colon, tensor name.
_RAW, _BYTES, _LENGTHS, _TENSOR, _OUTPUT = "raw:", "bytes:", "lengths:", "tensor:", "output:"


def prepare(inputs: Any, signature: Signature, preprocess: ImagePreprocess | None) -> dict[str, np.ndarray]:
    """The model's tensors by name, [N, ...], from what a caller has.

    inputs: by name (`""` names the only input), or bare where there is one input: encoded pictures (bytes) or uint8
    pictures where preprocessing is declared, else tensors. One bare picture is a batch of one. Raises DataError.
    """
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    names = [spec.name for spec in signature.inputs]
    if "" in named:
        if len(names) != 1 or len(named) != 1:
            raise DataError("inputs", "must be given by name", hint="The model wants " + ", ".join(names))
        named = {names[0]: named[""]}
    tensors = {}
    for name, value in named.items():
        if isinstance(value, bytes | bytearray | memoryview):
            value = [bytes(value)]
        if not _is_pictures(value):
            tensors[name] = _as_tensor(name, value)
        elif preprocess is not None:
            tensors[name] = preprocess(value)
        elif isinstance(value, np.ndarray):
            tensors[name] = value
        else:
            raise DataError(f"input {name!r}", "must be a tensor: this model has no preprocessing for pictures")
    return check_tensors(tensors, signature)


def check_tensors(tensors: Mapping[str, np.ndarray], signature: Signature) -> dict[str, np.ndarray]:
    """`tensors` in the model's order and dtypes, of any batch size but 0. Raises DataError."""
    wanted = free_batch(signature)
    checked = wanted.check(tensors)
    lengths = {name: len(array) for name, array in checked.items() if array.ndim}
    if 0 in lengths.values():
        raise DataError("inputs", "must hold at least one sample", got="none")
    free = [s.name for s in wanted.inputs if s.shape and s.shape[0] is None]
    if len({lengths[name] for name in free}) > 1:
        raise DataError("inputs", "must have the same number of samples", got={n: lengths[n] for n in free})
    return checked


@functools.lru_cache(maxsize=64)  # asked for each request
def free_batch(signature: Signature) -> Signature:
    """`signature` with the batch axis free, where all tensors share one fixed batch; else itself."""
    specs = (*signature.inputs, *signature.outputs)
    if signature.batch is None or any(not s.shape or s.shape[0] != signature.batch for s in specs):
        return signature
    inputs, outputs = (tuple(replace(s, shape=(None, *s.shape[1:])) for s in side) for side in (signature.inputs, signature.outputs))
    return Signature(inputs=inputs, outputs=outputs)


def save_golden(path: Path, raw: Mapping[str, Any], tensors: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    """Write golden.npz. raw: values as in Samples.inputs; pictures are kept as bytes with their lengths."""
    entries: dict[str, np.ndarray] = {}
    for name, values in raw.items():
        if isinstance(values, np.ndarray):
            entries[_RAW + name] = values
        else:
            encoded = [_encoded(value) for value in values]
            entries[_BYTES + name] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
            entries[_LENGTHS + name] = np.array([len(e) for e in encoded], dtype=np.int64)
    entries |= {_TENSOR + name: np.asarray(array) for name, array in tensors.items()}
    entries |= {_OUTPUT + name: np.asarray(array) for name, array in outputs.items()}
    for name, array in entries.items():
        if array.dtype.hasobject:
            raise DataError(f"golden {name}", "must be numbers, text or encoded pictures", got=str(array.dtype))
    with path.open("wb") as file:
        np.savez(file, **entries)  # type: ignore[arg-type]


class Golden:
    """The golden examples. raw, tensors, outputs: by name, [N, ...]; raw may be a list of encoded pictures."""

    def __init__(self, path: Path) -> None:
        self.raw: dict[str, Any] = {}
        self.tensors: dict[str, np.ndarray] = {}
        self.outputs: dict[str, np.ndarray] = {}
        try:
            with np.load(path, allow_pickle=False) as archive:
                entries = {key: archive[key] for key in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise BundleError(path.name, f"cannot be read ({error})", hint="It may be truncated: copy the bundle again") from None
        for key, array in entries.items():
            if key.startswith(_RAW):
                self.raw[key.removeprefix(_RAW)] = array
            elif key.startswith(_BYTES):
                name = key.removeprefix(_BYTES)
                self.raw[name] = _split(array, entries[_LENGTHS + name])
            elif key.startswith(_TENSOR):
                self.tensors[key.removeprefix(_TENSOR)] = array
            elif key.startswith(_OUTPUT):
                self.outputs[key.removeprefix(_OUTPUT)] = array


def _is_pictures(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return bool(value.dtype == np.uint8)
    if not isinstance(value, list | tuple) or not value:
        return False
    first = value[0]
    return isinstance(first, bytes | bytearray | memoryview) or (isinstance(first, np.ndarray) and first.dtype == np.uint8)


def _as_tensor(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise DataError(f"input {name!r}", "must be a tensor whose rows all have the same length") from None
    if array.dtype.hasobject:
        raise DataError(f"input {name!r}", "must hold numbers", got=type(value).__name__)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"input {name!r}", "must be finite", got="NaN or infinity")
    return array


def _encoded(picture: Any) -> bytes:
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    from PIL import Image

    array = np.asarray(picture)
    if array.dtype != np.uint8:
        raise DataError("golden", "must hold tensors of one shape, encoded pictures or uint8 pictures", got=str(array.dtype))
    buffer = io.BytesIO()  # PNG loses nothing, so pictures of any size share one form
    Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()


def _split(joined: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    ends = np.cumsum(lengths)
    return [joined[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True)]
