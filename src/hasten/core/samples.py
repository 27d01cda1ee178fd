"""Data: named arrays with or without labels, and the three splits that are kept apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .digest import digest_array, digest_bytes, digest_json
from .errors import DataError

SplitName = Literal["calibrate", "select", "certify"]
SPLITS: tuple[SplitName, ...] = ("calibrate", "select", "certify")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """N samples.

    inputs: by name, each an array [N, ...], or a sequence of N encoded pictures (bytes) or uint8 pictures of any size
    where preprocessing is declared; labels: [N] class numbers (integers) or [N, ...] targets (floats), or None.
    """

    inputs: Mapping[str, Any]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()))) if self.inputs else 0

    def take(self, indices: Sequence[int] | np.ndarray) -> Samples:
        """The samples at `indices`, in that order."""
        picked = {
            name: values[np.asarray(indices)] if isinstance(values, np.ndarray) else [values[int(i)] for i in indices]
            for name, values in self.inputs.items()
        }
        return Samples(inputs=picked, labels=None if self.labels is None else self.labels[np.asarray(indices)])

    def check(self, where: str) -> Samples:
        """Itself, or DataError: empty, unequal lengths, NaN or infinity."""
        if not self.inputs or len(self) == 0:
            raise DataError(where, "must hold at least one sample", got="none")
        lengths = {name: len(values) for name, values in self.inputs.items()}
        if self.labels is not None:
            lengths["labels"] = len(self.labels)
        if len(set(lengths.values())) > 1:
            raise DataError(where, "must have the same number of samples in every array", got=lengths)
        for name, values in [*self.inputs.items(), ("labels", self.labels)]:
            if isinstance(values, np.ndarray) and values.dtype.kind == "f" and not np.isfinite(values).all():
                bad = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
                raise DataError(f"{where}.{name}", "must be finite", got=f"NaN or infinity in sample {bad}")
            if isinstance(values, np.ndarray) and values.dtype.kind == "O":
                raise DataError(f"{where}.{name}", "must be numbers", got="an array of objects")
        return self

    def sample_digests(self) -> list[str]:
        """The content of each sample's inputs, one name each: equal samples have equal names."""
        per_input = [[_digest_one(value) for value in values] for values in self.inputs.values()]
        return [digest_bytes(*(d.encode() for d in row)) for row in zip(*per_input, strict=True)]

    def digest(self) -> str:
        labels = "" if self.labels is None else digest_array(self.labels)
        return digest_json([sorted(self.inputs), self.sample_digests(), labels])


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three splits. calibrate: techniques may look; select: the search may look; certify: looked at once."""

    calibrate: Samples
    select: Samples
    certify: Samples
    digest: str = field(default="")

    @property
    def labelled(self) -> bool:
        return all(self[name].labels is not None for name in SPLITS)

    def __getitem__(self, name: SplitName) -> Samples:
        return getattr(self, name)  # type: ignore[no-any-return]


def make_splits(parts: Mapping[str, Samples], *, seed: int = 0, fractions: tuple[float, float, float] = (0.1, 0.3, 0.6)) -> Splits:
    """The splits of `parts`: either one entry `all`, divided stratified by class and seeded, or the three by name.

    Repeated samples inside one set given as `all` are kept once. Raises DataError where two splits share a sample.
    """
    if set(parts) == {"all"}:
        chosen = _divide(parts["all"].check("data"), seed, fractions)
    else:
        missing = [name for name in SPLITS if name not in parts]
        unknown = [name for name in parts if name not in SPLITS]
        if missing or unknown:
            raise DataError("data", "must be one set, or the three splits calibrate, select and certify", got=sorted(parts))
        chosen = {name: parts[name].check(f"data.{name}") for name in SPLITS}
    names = {split: samples.sample_digests() for split, samples in chosen.items()}
    for a, b in (("calibrate", "select"), ("calibrate", "certify"), ("select", "certify")):
        if shared := set(names[a]) & set(names[b]):
            raise DataError(
                "data",
                f"must not share samples between splits: {len(shared)} samples of {a} are in {b} too "
                f"(the first at {b}[{next(i for i, d in enumerate(names[b]) if d in shared)}])",
                hint="Remove the copies: a leak makes the certificate worthless",
            )
    labels = [None if chosen[s].labels is None else digest_array(chosen[s].labels) for s in SPLITS]  # type: ignore[arg-type]
    return Splits(**chosen, digest=digest_json([names, labels]))


def _divide(samples: Samples, seed: int, fractions: tuple[float, float, float]) -> dict[str, Samples]:
    _, first = np.unique(samples.sample_digests(), return_index=True)
    first = np.sort(first)
    if len(first) < 10:
        raise DataError("data", "must hold at least 10 different samples to be divided into three splits", got=len(first))
    rng = np.random.default_rng(seed)
    labels = samples.labels
    stratify = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iub"
    strata = [first[labels[first] == c] for c in np.unique(labels[first])] if stratify else [first]  # type: ignore[index]
    # A sample's place in its shuffled stratum decides its split, so that every class is divided alike.
    place = np.concatenate([(rng.permutation(len(s)) + rng.random()) / len(s) % 1.0 for s in strata])
    index = np.concatenate(strata)
    borders = np.cumsum(fractions)[:2]
    split = np.searchsorted(borders, place, side="right")
    shuffled = rng.permutation(len(index))
    index, split = index[shuffled], split[shuffled]
    parts = {name: samples.take(index[split == k]) for k, name in enumerate(SPLITS)}
    for name, part in parts.items():
        if len(part) == 0:
            raise DataError("data", f"must hold enough samples for the split {name}", got=len(first))
    return parts


def _digest_one(value: Any) -> str:
    return digest_bytes(bytes(value)) if isinstance(value, bytes | bytearray | memoryview) else digest_array(np.asarray(value))
