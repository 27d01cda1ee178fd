"""Data: named arrays with or without labels, and the three splits that are kept apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from .digest import digest_array, digest_bytes, digest_json
from .errors import DataError
from .labels import LABEL_NAMES

SplitName = Literal["calibrate", "select", "certify"]
SPLITS: tuple[SplitName, ...] = ("calibrate", "select", "certify")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """N samples.

    inputs: by name, each an array [N, ...], or a sequence of N encoded pictures (bytes) or uint8 pictures of any size
    where preprocessing is declared; labels: [N] class numbers (integers) or [N, ...] targets (floats), or None;
    classes: the names of the class numbers, where the source has names; places: [N] where each stood in its source,
    for messages (None: in order).
    """

    inputs: Mapping[str, Any]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()))) if self.inputs else 0

    def take(self, indices: Sequence[int] | np.ndarray) -> Samples:
        """The samples at `indices`, in that order."""
        picked = {
            name: values[np.asarray(indices)] if isinstance(values, np.ndarray) else [values[int(i)] for i in indices]
            for name, values in self.inputs.items()
        }
        chosen = np.asarray(indices)
        return replace(
            self,
            inputs=picked,
            labels=None if self.labels is None else self.labels[chosen],
            places=chosen if self.places is None else self.places[chosen],
        )

    def check(self, where: str) -> Samples:
        """Itself, or DataError: empty, unequal lengths, NaN or infinity."""
        if not self.inputs or len(self) == 0:
            raise DataError(where, "must hold at least one sample", got="none")
        lengths = {name or "inputs": len(values) for name, values in self.inputs.items()}
        if self.labels is not None:
            lengths["labels"] = len(self.labels)
        if len(set(lengths.values())) > 1:
            raise DataError(where, "must have the same number of samples in every array", got=lengths)
        for name, values in [*self.inputs.items(), ("labels", self.labels)]:
            if isinstance(values, np.ndarray) and values.dtype.kind == "f" and not np.isfinite(values).all():
                bad = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
                raise DataError(f"{where}.{name}".rstrip("."), "must be finite", got=f"NaN or infinity in sample {bad}")
            if isinstance(values, np.ndarray) and values.dtype.kind == "O":
                raise DataError(f"{where}.{name}".rstrip("."), "must be numbers", got="an array of objects")
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
    """The three splits, and what may be trained on. calibrate: techniques may look; select: the search may look; certify: looked at
    once; train: shares no sample with them; digest names the three, train_digest what may be trained on."""

    calibrate: Samples
    select: Samples
    certify: Samples
    train: Samples | None = None
    digest: str = field(default="")
    train_digest: str = field(default="")

    @property
    def labelled(self) -> bool:
        return all(self[name].labels is not None for name in SPLITS)

    def __getitem__(self, name: SplitName) -> Samples:
        return getattr(self, name)  # type: ignore[no-any-return]


def make_splits(parts: Mapping[str, Samples], *, seed: int = 0, fractions: tuple[float, float, float] = (0.1, 0.3, 0.6)) -> Splits:
    """The splits of `parts`: either one entry `all`, divided stratified by class and seeded, or the three by name.

    Beside either there may be `train`, which is not divided. Repeated samples inside one set given as `all` are kept once. Raises
    DataError where two splits share a sample.
    """
    train = parts["train"].check("data.train") if "train" in parts else None
    parts = {name: part for name, part in parts.items() if name != "train"}
    if set(parts) == {"all"}:
        chosen = _divide(parts["all"].check("data"), seed, fractions)
    else:
        missing = [name for name in SPLITS if name not in parts]
        unknown = [name for name in parts if name not in SPLITS]
        if missing or unknown:
            raise DataError("data", "must be one set, or the three splits calibrate, select and certify", got=sorted(parts))
        chosen = {name: parts[name].check(f"data.{name}") for name in SPLITS}
    _same_classes(chosen | ({"train": train} if train else {}))
    names = {split: samples.sample_digests() for split, samples in chosen.items()}
    if train is not None:
        names["train"] = train.sample_digests()
    for a, b in itertools.combinations(names, 2):
        if shared := set(names[a]) & set(names[b]):
            raise DataError(
                "data",
                f"must not share samples between splits: {len(shared)} samples of {a} are in {b} too "
                f"(the first at {b}[{next(i for i, d in enumerate(names[b]) if d in shared)}])",
                hint="Remove the copies: a leak makes the certificate worthless",
            )
    labels = [None if chosen[s].labels is None else digest_array(chosen[s].labels) for s in SPLITS]  # type: ignore[arg-type]
    train_digest = "" if train is None else digest_json([names.pop("train"), None if train.labels is None else digest_array(train.labels)])
    return Splits(**chosen, train=train, digest=digest_json([names, labels]), train_digest=train_digest)


def as_parts(content: Any, *, where: str = "data") -> Mapping[str, Samples]:
    """What a Python user or a callable gives, as `{"all": samples}` or the splits by name.

    content: Samples; inputs; or a tuple (inputs, labels); or a mapping with the keys calibrate, select and certify (train beside them, if
    any), or all and train, each any of these. inputs: an array [N, ...], a list of N pictures (encoded bytes or uint8 arrays), or a
    dict of them by input name, which may hold the labels too (under label, labels, target or y). A single input without a name is called
    `""`. Tensors of torch count as arrays. Raises DataError, naming what came.
    """
    if isinstance(content, Splits):
        return {name: content[name] for name in SPLITS} | ({"train": content.train} if content.train else {})
    if isinstance(content, Mapping) and content:
        if all(isinstance(part, Samples) for part in content.values()):
            return content
        if any(name in SPLITS for name in content) or set(content) == {"all", "train"}:
            return {str(name): _as_samples(part, f"{where}.{name}") for name, part in content.items()}
    return {"all": _as_samples(content, where)}


def _as_samples(content: Any, where: str) -> Samples:
    if isinstance(content, Samples):
        return content
    if isinstance(content, tuple):
        if len(content) != 2:
            raise DataError(where, "must be inputs or a tuple (inputs, labels)", got=f"a tuple of {len(content)}")
        return Samples(inputs=_as_inputs(content[0], where), labels=_as_labels(content[1], where))
    if isinstance(content, Mapping):
        label = next((name for name in LABEL_NAMES if name in content), None)
        inputs = {name: values for name, values in content.items() if name != label}
        return Samples(inputs=_as_inputs(inputs, where), labels=_as_labels(content[label], where) if label else None)
    return Samples(inputs=_as_inputs(content, where))


def _as_inputs(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        return {"": _as_values(content, where)}
    if not content:
        raise DataError(where, "must hold at least one input", got="an empty dict")
    return {str(name): _as_values(values, f"{where}.{name}") for name, values in content.items()}


def _as_values(content: Any, where: str) -> Any:
    """An array [N, ...], or a list of pictures."""
    if isinstance(content, list) and content:
        if all(isinstance(value, bytes | bytearray | memoryview) for value in content):
            return content
        if all(isinstance(value, np.ndarray) and value.dtype == np.uint8 for value in content) and len({v.shape for v in content}) > 1:
            return content
    return _as_array(content, where)


def _as_labels(content: Any, where: str) -> np.ndarray | None:
    if content is None:
        return None
    where = f"{where}.labels"
    labels = _as_array(content, where, hint="Number text classes: numpy.unique(labels, return_inverse=True)[1]")
    if labels.dtype.kind == "f":
        return labels
    return (labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels).astype(np.int64)


def _as_array(content: Any, where: str, *, hint: str = "") -> np.ndarray:
    rule = "must be an array of numbers [N, ...]"
    if not isinstance(content, list | tuple) and not hasattr(content, "__array__") and not hasattr(content, "detach"):
        got = f"an object of type {type(content).__name__}"
        raise DataError(where, f"{rule}, a dict of them, or a list of pictures", got=got, hint=hint)
    try:
        # A tensor of torch has `detach`; torch is not imported here.
        array = content.detach().cpu().numpy() if hasattr(content, "detach") else np.asarray(content)
    except (TypeError, ValueError) as error:
        raise DataError(where, f"{rule} ({error})", hint=hint) from None
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise DataError(where, rule, got=f"{array.dtype} {array.shape}", hint=hint)
    return array


def _same_classes(parts: Mapping[str, Samples]) -> None:
    """Class names are numbered source by source, so that sources with different names would number them differently."""
    first = parts[SPLITS[0]].classes
    for name in list(parts)[1:]:
        if parts[name].classes != first:
            odd = sorted(set(first) ^ set(parts[name].classes))
            raise DataError(f"data.{name}", f"must have the class names of data.{SPLITS[0]}", got=f"a difference in {', '.join(odd)}",
                            hint="List all class names in data.labels")  # fmt: skip


def _divide(samples: Samples, seed: int, fractions: tuple[float, float, float]) -> dict[str, Samples]:
    # In the order of their content: the order of the samples in the source does not count.
    _, first = np.unique(samples.sample_digests(), return_index=True)
    if len(first) < 10:
        raise DataError("data", "must hold at least 10 different samples to be divided into three splits", got=len(first))
    rng = np.random.default_rng(seed)
    labels = samples.labels
    stratify = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iub"
    strata = [first[labels[first] == c] for c in np.unique(labels[first])] if stratify else [first]  # type: ignore[index]
    # A sample's place in its shuffled stratum decides its split, so that every class is divided alike. The places of
    # the strata are shifted evenly against each other, so that the whole is divided so even where classes are tiny.
    shifts = (rng.permutation(len(strata)) + rng.random()) / len(strata)
    place = np.concatenate([(rng.permutation(len(s)) + shift) / len(s) for s, shift in zip(strata, shifts, strict=True)])
    index = np.concatenate(strata)
    borders = np.cumsum(fractions)[:2]
    split = np.searchsorted(borders, place, side="right")
    shuffled = rng.permutation(len(index))
    index, split = index[shuffled], split[shuffled]
    parts: dict[str, Samples] = {name: samples.take(index[split == k]) for k, name in enumerate(SPLITS)}
    for name, part in parts.items():
        if len(part) == 0:
            raise DataError("data", f"must hold enough samples for the split {name}", got=len(first))
    return parts


def _digest_one(value: Any) -> str:
    return digest_bytes(bytes(value)) if isinstance(value, bytes | bytearray | memoryview) else digest_array(np.asarray(value))
