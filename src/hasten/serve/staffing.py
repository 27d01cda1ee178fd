"""How many processes run a program: this one alone, as many as were asked for, or as many as pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ..bundle.read import Bundle
from ..core.errors import JobError
from ..core.machine import usable_cores
from .curve import Curve
from .replicas import Replicas
from .warmup import warm_up

FRONT_SECONDS = 2e-4
"""What the process that holds the connections spends on one request (decision 0018). Where a sample takes the program less, that process
is what ends first, and more programs answer nobody."""

GAIN = 1.2
"""Samples a second of all processes at once over those of one program here, from which on they pay: they take memory each."""


@dataclass(frozen=True, kw_only=True)
class Staffing:
    """What was asked for. count: replicas, each with its part of the cores, or None: as many as pay; isolated: one is a process too."""

    count: int | None = 1
    isolated: bool = False

    @classmethod
    def read(cls, replicas: int | str, *, isolated: bool = False) -> Self:
        """replicas: a whole number from 1, or "auto". Raises JobError."""
        if replicas == "auto":
            return cls(count=None, isolated=isolated)
        if not str(replicas).isdecimal() or not int(replicas):
            raise JobError("--replicas", "must be a whole number from 1, or auto", got=replicas)
        return cls(count=int(replicas), isolated=isolated)

    def most(self, bundle: Bundle) -> int:
        """Programs of `bundle` that may be loaded at a time."""
        if self.count is not None:
            return self.count
        return max(1, usable_cores() // bundle.runtime.num_threads(bundle.target))

    def open(self, bundle: Bundle, *, objective: float) -> Replicas | None:
        """Load the program of `bundle`: in processes, which it then uses, or here: None. Raises what loading raises, NotPossibleHere."""
        if self.count is None and self.most(bundle) > 1:
            return self._as_pays(bundle, objective)
        if self.most(bundle) > 1 or self.isolated:
            return _started(bundle, self.most(bundle))
        bundle.load()
        return None

    def _as_pays(self, bundle: Bundle, objective: float) -> Replicas | None:
        """Time one program here, and where that may pay all processes at once; keep what does more."""
        bundle.load()
        alone = _rate(warm_up(bundle, objective=objective, trusting=False), objective)  # timed as all at once are
        if 1 / alone > FRONT_SECONDS:
            bundle.close()
            replicas = _started(bundle, self.most(bundle))
            together = warm_up(bundle, objective=objective, at_once=replicas.count)
            if replicas.count * _rate(together, objective) >= GAIN * alone:
                return replicas
        bundle.close()
        if self.isolated:
            return _started(bundle, 1)
        bundle.load()
        return None


def _started(bundle: Bundle, count: int) -> Replicas:
    replicas = Replicas(bundle, count)
    bundle.use(replicas)
    return replicas


def _rate(curve: Curve, objective: float) -> float:
    """Samples a second at the best batch size."""
    best = curve.best_batch(objective)
    return best / curve.seconds(best)
