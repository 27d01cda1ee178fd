"""Names made from content: equal content has an equal name, on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

LENGTH = 20  # hex digits kept: 80 bits, no collision in any store that a disk can hold


def digest_bytes(*parts: bytes) -> str:
    """The name of a sequence of byte strings (their borders count)."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()[:LENGTH]


def digest_json(value: object) -> str:
    """The name of a JSON-like value; the order of keys does not count."""
    return digest_bytes(canonical_json(value).encode())


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces. Sets are sorted; paths and other objects are written as text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain)


def digest_array(array: np.ndarray) -> str:
    """The name of an array: dtype, shape and values."""
    data = np.ascontiguousarray(array)
    return digest_bytes(str(data.dtype).encode(), str(data.shape).encode(), data.tobytes())


def sha256_file(path: Path) -> str:
    """The full sha256 of a file, as bundles record it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_path(path: Path) -> str:
    """The name of a file's content, or of a folder's files and their relative paths."""
    if path.is_file():
        return sha256_file(path)[:LENGTH]
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return digest_json([[p.relative_to(path).as_posix(), sha256_file(p)] for p in files])


def plain(value: object) -> object:
    """What JSON can hold instead of `value`: for the `default` of json.dumps."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
