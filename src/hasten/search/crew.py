"""Who does the work of a search: this process's own children, or the nodes of a cluster (crew_ray.py).

What a crew is given are errands (measure/errands.py). Paths among their arguments are files of finished steps in the search's
store, or the folder of the step under way, which the errand fills.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from ..core.machine import Machine, this_machine
from ..core.store import Store
from ..measure.errands import Station
from ..measure.latency import Progress

P = ParamSpec("P")
R = TypeVar("R")
Errand = Callable[Concatenate[Station, P], R]


class Crew(ABC):
    """Does errands. machine: the one that compiles, runs and times."""

    machine: Machine

    @property
    def builds_ahead(self) -> bool:
        """Whether `ahead` does anything."""
        return False

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def build(self, key: str, errand: Errand[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The step `key`, done anywhere. Raises what the errand raises, or WorkerError."""

    @abstractmethod
    def on_target(self, errand: Errand[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Done on the machine that times, one errand at a time. Raises what the errand raises, or WorkerError."""

    def ahead(self, key: str, errand: Errand[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        """Begin with a step that `build` will probably be asked for."""

    def arrived(self) -> list[str]:
        """Keys of the steps that were built ahead and only wait for `build`."""
        return []

    @abstractmethod
    def release(self, name: str) -> None:
        """End the child that `errands.evaluate` kept under `name`."""

    @abstractmethod
    def close(self) -> None:
        """Let everybody go. Nothing of it is left."""


class Local(Crew):
    """Everything here, one thing after the other. tell: hears how far a race is."""

    def __init__(self, store: Store, tell: Progress | None = None) -> None:
        self.machine = this_machine()
        self._station = Station(store=store, tell=tell)

    def build(self, key: str, errand: Errand[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return errand(self._station, *args, **kwargs)

    def on_target(self, errand: Errand[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return errand(self._station, *args, **kwargs)

    def release(self, name: str) -> None:
        self._station.release(name)

    def close(self) -> None:
        self._station.close()
