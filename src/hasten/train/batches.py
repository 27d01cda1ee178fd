"""The train split in batches: shuffled and augmented from a seed, so that any step can be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import DataError
from ..core.job import Augment
from ..core.seams import Training

if TYPE_CHECKING:
    import torch

_PADDING = 8  # a picture is shifted by at most 1/8 of its side: 4 of 32 pixels, as in He et al. 2015 (arXiv:1512.03385), 4.2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """inputs: each [n, ...] in the order of the signature; labels: [n], or None; epoch, place: which of all batches it is, -1 for none;
    rows: which samples they are, [n], None where they were augmented."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor | None
    epoch: int = -1
    place: int = -1
    rows: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Batches:
    """inputs: each [N, ...], memory-mapped, in the order of the signature; labels: [N] or None; size: samples a batch."""

    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    size: int
    augment: Augment = "none"
    seed: int = 0

    @classmethod
    def of(cls, training: Training, names: Sequence[str], seed: int) -> Batches:
        """The batches of a training set, inputs in the order of `names`. Raises DataError where augmentation needs pictures."""
        inputs = tuple(np.load(training.inputs[name], mmap_mode="r") for name in names)
        if training.augment != "none" and any(values.ndim != 4 for values in inputs):
            raise DataError("train.augment", "must be none unless every input is pictures [N, C, H, W]", got=training.augment)
        labels = np.load(training.labels) if training.labels else None
        return cls(inputs=inputs, labels=labels, size=min(training.batch_size, len(inputs[0])), augment=training.augment, seed=seed)

    def __len__(self) -> int:
        """Batches an epoch; what does not fill one is left for another epoch's shuffle."""
        return len(self.inputs[0]) // self.size

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number`, from batch `start` on."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.inputs[0]))
        for place in range(start, len(self)):
            rows = np.sort(order[place * self.size : (place + 1) * self.size])  # sorted: a memory map is read in one direction
            yield replace(self._batch(rows, np.random.default_rng([self.seed, number, place])), epoch=number, place=place)

    def plain(self, count: int, start: int = 0) -> Batch:
        """Samples from `start` on, as they are."""
        return self._tensors([np.array(values[start : start + count]) for values in self.inputs], slice(start, start + count))

    def _batch(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        values = [np.array(array[rows]) for array in self.inputs]
        if self.augment == "none":
            return replace(self._tensors(values, rows), rows=rows)
        return self._tensors([_augmented(v, self.augment, rng) for v in values], rows)

    def _tensors(self, values: Sequence[np.ndarray], rows: Any) -> Batch:
        import torch

        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        tensors = (torch.from_numpy(np.ascontiguousarray(v)) for v in values)
        return Batch(inputs=tuple(t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors), labels=labels)


def _augmented(pictures: np.ndarray, how: Augment, rng: np.random.Generator) -> np.ndarray:
    """Each picture [C, H, W] mirrored with probability one half, shifted (what comes in repeats the border), or both."""
    if "flip" in how:
        flipped = rng.random(len(pictures)) < 0.5
        pictures[flipped] = pictures[flipped, :, :, ::-1]
    if "crop" not in how:
        return pictures
    height, width = pictures.shape[2:]
    up, left = height // _PADDING, width // _PADDING
    padded = np.pad(pictures, ((0, 0), (0, 0), (up, up), (left, left)), mode="edge")
    tops, lefts = rng.integers(0, 2 * up + 1, len(pictures)), rng.integers(0, 2 * left + 1, len(pictures))
    return np.stack([p[:, t : t + height, x : x + width] for p, t, x in zip(padded, tops, lefts, strict=True)])
