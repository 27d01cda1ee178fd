"""How the requests that name no version are shared among the versions of one model."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..core.errors import JobError

_PART = re.compile(r"(?P<name>[A-Za-z0-9._-]+)@(?P<version>[0-9]+)(=(?P<number>[0-9.]+))?")


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What was asked for one model."""

    split: Mapping[str, float] = field(default_factory=dict)
    """Weights above 0 by version, in any unit. Empty: all to the newest that is neither canary nor shadow."""
    canary: str | None = None
    """A version that gets `canary_share` of all requests until it is surely worse."""
    canary_share: float = 0.0
    """Between 0 and 1."""
    shadow: str | None = None
    """A version that gets copies, whose outputs are compared and answer nobody."""

    def weights(self, live: Sequence[str], *, canary: bool) -> dict[str, float]:
        """Weights of those versions in `live` (the oldest first) that get requests. canary: whether it still does."""
        special = {self.canary, self.shadow}
        weights = {version: weight for version, weight in self.split.items() if version in live}
        if not weights:
            weights = dict.fromkeys([version for version in live if version not in special][-1:], 1.0)
        if canary and self.canary is not None and self.canary in live:
            others = sum(weights.values()) or 1.0
            weights = {version: weight / others * (1 - self.canary_share) for version, weight in weights.items()}
            weights[self.canary] = self.canary_share
        return weights


def choose(weights: Mapping[str, float], key: str | None) -> str:
    """One of `weights`, each with its probability. The same key gets the same one, and one whose weight grows takes keys from all
    others alike while no key moves between those (weighted rendezvous hashing: the first of exponential times with these rates).

    key: what the choice sticks to, of the caller's choosing; None: chance.
    """
    if len(weights) == 1:
        return next(iter(weights))
    if key is None:
        return random.choices(list(weights), list(weights.values()))[0]
    return min(weights, key=lambda version: -math.log(_uniform(key, version)) / weights[version])


def _uniform(key: str, version: str) -> float:
    """A number between 0 and 1, of 53 bits, that is the same for the same texts on every machine."""
    digest = hashlib.blake2b(f"{version}\0{key}".encode(), digest_size=8).digest()
    return ((int.from_bytes(digest) >> 11) + 0.5) / 2**53


def read_traffic(*, split: Sequence[str] = (), canary: Sequence[str] = (), shadow: Sequence[str] = ()) -> dict[str, Traffic]:
    """Traffic by model. split: "M@1=90,M@2=10"; canary: "M@2=5", percent; shadow: "M@2". Raises JobError."""
    made: dict[str, Traffic] = {}
    for name, version, number in _parts("--split", split, "M@1=90,M@2=10"):
        before = made.get(name, Traffic())
        if version in before.split:
            raise JobError("--split", "must name a version once", got=f"{name}@{version}")
        made[name] = replace(before, split={**before.split, version: number})
    for name, version, number in _parts("--canary", canary, "M@2=5"):
        before = made.get(name, Traffic())
        if not number < 100:
            raise JobError("--canary", "must be a percentage below 100", got=number)
        if before.canary is not None or version in before.split:
            raise JobError("--canary", "must be one version a model, which is in no --split", got=f"{name}@{version}")
        made[name] = replace(before, canary=version, canary_share=number / 100)
    for name, version, _ in _parts("--shadow", shadow, "M@2", numbers=False):
        before = made.get(name, Traffic())
        if before.shadow is not None or version in before.split or version == before.canary:
            raise JobError("--shadow", "must be one version a model, which gets no requests of its own", got=f"{name}@{version}")
        made[name] = replace(before, shadow=version)
    return made


def _parts(option: str, texts: Sequence[str], example: str, *, numbers: bool = True) -> list[tuple[str, str, float]]:
    parts = []
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        found = _PART.fullmatch(text)
        if found is None or bool(found["number"]) != numbers:
            raise JobError(option, f"must be written like {example}", got=text)
        try:
            number = float(found["number"] or 1)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise JobError(option, "must have numbers above 0", got=text)
        parts.append((found["name"], found["version"], number))
    return parts
