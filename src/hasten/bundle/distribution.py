"""What inputs and outputs looked like when a bundle was certified, and how far others are from that.

Each sample gives a few numbers: of a tensor with channels the mean and the standard deviation of each channel, of a row each column, of a
classifier the class and its probability. They are compared, not pixels: samples are independent of each other, pixels are not,
and only so is it known how much two sets differ by chance.

The distance is the Jensen-Shannon divergence (Lin 1991) between histograms, in bits: 0 for equal ones, 1 where nothing overlaps. Of two
sets of n and m samples from one source, 8 ln 2 nm / (n + m) times it is nearly chi-squared with one degree of freedom less than
there are bins: that is the noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import BundleError
from ..core.signature import Signature
from .layout import DISTRIBUTION

ALPHA = 0.01
"""How often samples that are like the certified ones give an alarm, all features of one comparison together: at most so often."""
LEAST = 0.02
"""Bits below which a difference is none, however sure: about where the population stability index calls one small (0.1)."""
MAX_FEATURES = 32

_BINS, _PER_BIN, _MAX_CLASSES = 10, 10, 32
_COLUMNS, _CHANNELS = 16, 4
_CHUNK = 256  # samples that are summarised at a time: a split may be larger than memory


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A number of each sample, as a histogram. edges: inner borders of the bins; classes: instead of them, the class of each bin but the
    last, which has all others; counts: certified samples in each bin."""

    name: str
    edges: tuple[float, ...]
    classes: tuple[int, ...]
    counts: tuple[int, ...]

    def bins(self, values: np.ndarray) -> np.ndarray:
        """How many of `values`, [N], lie in each bin."""
        if not self.classes:
            return np.bincount(np.searchsorted(self.edges, values, side="right"), minlength=len(self.counts))
        order = np.argsort(self.classes)
        at = np.searchsorted(np.asarray(self.classes)[order], values).clip(max=len(order) - 1)
        found = np.asarray(self.classes)[order][at] == values
        return np.bincount(np.where(found, order[at], len(order)), minlength=len(self.counts))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one feature is from what was certified. divergence, floor: bits; alarm: whether that is more than chance and not little."""

    name: str
    divergence: float
    floor: float
    alarm: bool


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The features of a bundle, and of how many certified samples they are."""

    num_samples: int
    features: tuple[Feature, ...]

    def to_json(self) -> dict[str, Any]:
        features = [{"name": f.name, "edges": list(f.edges), "classes": list(f.classes), "counts": list(f.counts)} for f in self.features]
        return {"split": "certify", "num_samples": self.num_samples, "features": features}

    @classmethod
    def from_json(cls, value: Any) -> Distribution:
        """Raises BundleError for what is no such document."""
        try:
            features = tuple(
                Feature(
                    name=str(f["name"]), edges=tuple(map(float, f["edges"])), classes=tuple(map(int, f["classes"])),
                    counts=tuple(map(int, f["counts"])),
                )
                for f in value["features"]
            )  # fmt: skip
            return cls(num_samples=int(value["num_samples"]), features=features)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(DISTRIBUTION, f"cannot be read ({type(error).__name__}: {error})") from None

    def compare(self, bins: Mapping[str, np.ndarray]) -> list[Difference]:
        """Each feature against other samples. bins: what `Feature.bins` gives for them, by name."""
        compared = [feature for feature in self.features if feature.name in bins]
        return [_difference(feature, bins[feature.name], ALPHA / len(compared)) for feature in compared]


def summarise(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], kind: Kind) -> Distribution:
    """The features of certified samples: tensors by name, [N, ...]; a few hundred samples or more are worth it."""
    total = len(next(iter(inputs.values())))
    chunks = [
        kind.numbers(
            {name: np.asarray(array[at : at + _CHUNK]) for name, array in inputs.items()},
            {name: np.asarray(array[at : at + _CHUNK]) for name, array in outputs.items()},
        )
        for at in range(0, total, _CHUNK)
    ]
    numbers = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return Distribution(num_samples=total, features=tuple(_feature(name, values) for name, values in numbers.items()))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a bundle's tensors are looked at. output: the judged one; classifier, probabilities: as in the manifest."""

    signature: Signature
    output: str
    classifier: bool
    probabilities: bool

    def numbers(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of each sample a few numbers, [N], by name; at most MAX_FEATURES of them."""
        found: dict[str, np.ndarray] = {}
        if (scores := outputs.get(self.output)) is not None:
            found |= self._classes(scores) if self.classifier else _of_tensor(self.output, scores)
        for spec in self.signature.inputs:
            if spec.name in inputs:
                found |= _of_tensor(spec.name, inputs[spec.name])
        return dict(list(found.items())[:MAX_FEATURES])

    def _classes(self, scores_NC: np.ndarray) -> dict[str, np.ndarray]:
        scores_NC = scores_NC.astype(np.float64)
        best = scores_NC.argmax(axis=1)
        top = scores_NC[np.arange(len(best)), best]
        if not self.probabilities:
            top = 1 / np.exp(scores_NC - top[:, None]).sum(axis=1)
        return {"class": best, "probability": top}


def _of_tensor(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """array: [N, ...]."""
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        return {}
    if array.ndim == 1:
        return {name: array.astype(np.float64)}
    if array.ndim == 2 and array.shape[1] <= _COLUMNS:
        return {f"{name}[{k}]": array[:, k].astype(np.float64) for k in range(array.shape[1])}
    axis = next((a for a in (1, array.ndim - 1) if array.ndim > 3 and array.shape[a] <= _CHANNELS), None)
    flat_NCX = np.moveaxis(array, axis, 1).reshape(len(array), array.shape[axis], -1) if axis else array.reshape(len(array), 1, -1)
    suffix = [f"[{c}]" if axis else "" for c in range(flat_NCX.shape[1])]
    means = flat_NCX.mean(axis=2, dtype=np.float64)
    # Squares of numbers near their mean: in float32 they lose nothing that a histogram shows.
    spreads = np.sqrt(np.square(flat_NCX - means[:, :, None].astype(np.float32)).mean(axis=2, dtype=np.float64))
    found: dict[str, np.ndarray] = {}
    for c, text in enumerate(suffix):
        found |= {f"{name}{text} mean": means[:, c], f"{name}{text} spread": spreads[:, c]}
    return found


def _feature(name: str, values: np.ndarray) -> Feature:
    if values.dtype.kind == "i":
        return _of_classes(name, values)
    bins = max(2, min(_BINS, len(values) // _PER_BIN))
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    if len(edges) == 1 and (values == values[0]).all():  # a constant: what is beside it is something else
        margin = max(1e-3 * abs(float(values[0])), 1e-6)
        edges = np.array([values[0] - margin, values[0] + margin])
    feature = Feature(name=name, edges=tuple(edges.tolist()), classes=(), counts=(0,) * (len(edges) + 1))
    return Feature(name=name, edges=feature.edges, classes=(), counts=tuple(feature.bins(values).tolist()))


def _of_classes(name: str, values: np.ndarray) -> Feature:
    """A bin for each class that is seen often enough, at most so many, and one for the rest."""
    seen, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[: _MAX_CLASSES - 1]
    kept = [int(seen[k]) for k in order if counts[k] >= _PER_BIN // 2] or [int(seen[order[0]])]
    feature = Feature(name=name, edges=(), classes=tuple(kept), counts=(0,) * (len(kept) + 1))
    return Feature(name=name, edges=(), classes=feature.classes, counts=tuple(feature.bins(values).tolist()))


def _difference(feature: Feature, bins: np.ndarray, alpha: float) -> Difference:
    from scipy.special import chdtri

    counts, others = np.asarray(feature.counts, dtype=np.float64), bins.astype(np.float64)
    divergence = jensen_shannon(counts, others)
    used = int(np.count_nonzero(counts + others))
    chance = 1 / counts.sum() + 1 / others.sum()
    floor = float(chdtri(max(used - 1, 1), alpha) * chance / (8 * math.log(2)))
    return Difference(name=feature.name, divergence=divergence, floor=floor, alarm=divergence > max(floor, LEAST))


def jensen_shannon(counts: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> float:
    """Bits between two histograms over the same bins, 0 to 1."""
    p, q = (np.asarray(c, dtype=np.float64) / np.sum(c) for c in (counts, others))
    middle = (p + q) / 2

    def to_middle(part: np.ndarray) -> float:
        there = part > 0
        return float((part[there] * np.log2(part[there] / middle[there])).sum())

    return max(0.0, (to_middle(p) + to_middle(q)) / 2)
