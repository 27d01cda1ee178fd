"""What is told while requests are answered. This one forgets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..core.errors import Overloaded


class Call(NamedTuple):
    """A call of the program that went well. began, ended: on the batcher's clock; size: its samples; witnesses: of its requests, of those
    that have one."""

    began: float
    ended: float
    size: int
    witnesses: Sequence[Witness]


class Witness(Protocol):
    """Who wants to know in which calls one request takes part. Told on the program's thread, before the answer is there."""

    def called(self, call: Call, arrived: float) -> None:
        """arrived: when the request, or this part of it, got in line."""


class Meter:
    """Told about one model. Methods are called on the program's thread and on the event loop's; they are quick and raise nothing."""

    def call(self, *, size: int, waited: Sequence[float], seconds: float, late: int) -> None:
        """A call went well. size: its samples; waited: seconds in the queue of each of its requests; late: how many were late."""

    def stage(self, name: str, seconds: float) -> None:
        """A request was decoded or its answer encoded. name: decode, encode."""

    def refused(self, error: Overloaded) -> None:
        """A request was refused."""

    def failed(self) -> None:
        """A request's call failed."""

    def restarted(self) -> None:
        """A replica had ended, and is started again."""

    def cancelled(self) -> None:
        """A request went away while it waited."""
