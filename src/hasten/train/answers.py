"""What the teacher answers, computed once: to each sample as it is, and, where samples are augmented, to each batch, since every student of
a seed meets the same batches, augmented in the same way."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .batches import Batch, Batches
from .lift import flat_outputs
from .served import Served

if TYPE_CHECKING:
    import torch
    from torch import nn

_MOST_BYTES = 1 << 28  # of one file of answers: beyond, the teacher is asked again and again


@dataclass(kw_only=True)
class Teacher:
    """module: answers a batch's inputs, here or behind a server; batches: what is asked; folder: answers are kept there, None: nowhere.

    What is read back is what was computed, to the bit, and does not depend on who asked first. A kill in the middle of writing leaves an
    answer that is computed again.
    """

    module: nn.Module | Served
    batches: Batches
    folder: Path | None = None

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """The outputs for the batch, in float32 where they are numbers with a fraction; no gradients."""
        if self.folder is None or batch.epoch < 0:
            return self._ask(batch)
        kept = self._to_rows(batch.rows) if batch.rows is not None else self._to_batch(batch)
        return self._ask(batch) if kept is None else self._parted(kept)

    def _ask(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        import torch

        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return flat_outputs(self.module(*batch.inputs))

    def _to_rows(self, rows: np.ndarray) -> np.ndarray | None:
        """The answers to samples as they are, [n, numbers]; None where answers cannot be kept. The first time all samples are asked, in
        their own order."""
        kept = self._kept("plain")
        if kept is not None and not np.isnan(found := np.array(kept[rows])).any():
            return found
        size, total = self.batches.size, len(self.batches.inputs[0])
        for start in (*range(0, total - size, size), total - size):
            if kept is None or np.isnan(kept[start : start + size]).any():
                kept = self._keep("plain", slice(start, start + size), (total,), self._ask(self.batches.plain(size, start)))
                if kept is None:
                    return None
        assert kept is not None
        return np.array(kept[rows])

    def _to_batch(self, batch: Batch) -> np.ndarray | None:
        """The answers to a batch that was augmented, likewise."""
        name, place = str(batch.epoch), batch.place
        kept = self._kept(name)
        if kept is None or np.isnan(kept[place]).any():
            kept = self._keep(name, place, (len(self.batches), self.batches.size), self._ask(batch))
        return None if kept is None else np.array(kept[place])

    def _kept(self, name: str) -> np.ndarray | None:
        """A file of answers, [..., numbers], mapped; None where there is none."""
        assert self.folder is not None
        path = self.folder / f"{name}.npy"
        return np.load(path, mmap_mode="r+") if path.is_file() else None

    def _keep(self, name: str, place: slice | int, shape: tuple[int, ...], outputs: tuple[torch.Tensor, ...]) -> np.ndarray | None:
        """Write answers into their place of a file, which is made [*shape, numbers]. Returns the file, None where it cannot hold them."""
        assert self.folder is not None
        if not all(o.is_floating_point() and len(o) == self.batches.size for o in outputs):
            return None
        flat = np.concatenate([o.float().numpy().reshape(len(o), -1) for o in outputs], axis=1)
        kept = self._kept(name)
        if kept is None:
            if math.prod(shape) * flat.shape[1] * 4 > _MOST_BYTES:
                return None
            self.folder.mkdir(parents=True, exist_ok=True)
            _shape_note(self.folder, outputs)
            kept = _empty(self.folder / f"{name}.npy", (*shape, flat.shape[1]))
        kept[place] = flat
        return kept

    def _parted(self, kept: np.ndarray) -> tuple[torch.Tensor, ...]:
        """The outputs that were joined: their shapes are noted beside them."""
        import torch

        assert self.folder is not None
        flat, parts, at = torch.from_numpy(kept), [], 0
        for shape in json.loads((self.folder / "shapes.json").read_text()):
            width = int(np.prod(shape))
            parts.append(flat[:, at : at + width].reshape(len(flat), *shape))
            at += width
        return tuple(parts)


def _shape_note(folder: Path, outputs: tuple[torch.Tensor, ...]) -> None:
    (folder / "shapes.json").write_text(json.dumps([list(o.shape[1:]) for o in outputs]))


def _empty(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A new file full of NaN at `path`, whole or not at all, mapped."""
    partial = path.with_suffix(f".{os.getpid()}")
    empty = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
    empty[:] = np.nan
    empty.flush()
    partial.replace(path)
    return np.load(path, mmap_mode="r+")  # type: ignore[no-any-return]
