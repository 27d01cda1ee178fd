"""Arrays that two processes see without a copy: a file in memory without a name, which is gone when the last of them is.

One side writes, and makes it longer where it must; the other reads what it is told. There is nothing to clean up after a kill.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

Entry = tuple[str, str, Sequence[int], int]
"""Where one array lies: its name, its dtype, its shape, its first byte. As JSON it goes from one process to the other."""

_ALIGNMENT = 64  # bytes: what vector instructions and caches want
_FIRST_BYTES = 65_536


class Shared:
    """One such file. descriptor: of the one that the other side made; without it a new one, which `close` closes.

    Arrays that were handed out stay valid when it grows; what is written next overwrites them.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _nameless() if descriptor is None else descriptor
        self._map: mmap.mmap | None = None

    def write(self, tensors: Mapping[str, Sequence[np.ndarray]]) -> tuple[list[Entry], dict[str, np.ndarray]]:
        """Put the parts of each tensor one after the other along the first axis. What to tell the other side, and the arrays."""
        entries: list[Entry] = []
        end = 0
        for name, parts in tensors.items():
            first = parts[0]
            shape = first.shape if len(parts) == 1 else (sum(len(part) for part in parts), *first.shape[1:])
            entries.append((name, str(first.dtype), shape, end))
            end += -(-math.prod(shape) * first.itemsize // _ALIGNMENT) * _ALIGNMENT
        self._grow(end)
        arrays = self.read(entries)
        for name, parts in tensors.items():
            if len(parts) == 1:
                np.copyto(arrays[name], parts[0])
            else:
                np.concatenate(parts, out=arrays[name])
        return entries, arrays

    def read(self, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
        """The arrays that the other side wrote, in place."""
        known = self._mapped(max((_end(entry) for entry in entries), default=0))
        return {name: np.ndarray(tuple(shape), dtype, buffer=known, offset=offset) for name, dtype, shape, offset in entries}

    def close(self) -> None:
        """Let it go. Arrays that somebody still holds stay valid."""
        self._map = None
        os.close(self.descriptor)

    def _grow(self, size: int) -> None:
        """Room for `size` bytes. Pages take memory when they are written: doubling costs nothing."""
        if self._map is None or size > len(self._map):
            os.ftruncate(self.descriptor, max(_FIRST_BYTES, 1 << (size - 1).bit_length() if size else 0))

    def _mapped(self, size: int) -> mmap.mmap:
        if self._map is None or size > len(self._map):
            self._map = mmap.mmap(self.descriptor, 0)  # all that there is now
        return self._map


def _end(entry: Entry) -> int:
    _, dtype, shape, offset = entry
    return offset + math.prod(shape) * np.dtype(dtype).itemsize


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("hasten")
    with tempfile.TemporaryFile() as file:  # where there is no such thing: a file that has no name either
        return os.dup(file.fileno())
