"""When to ask again, and when to stop: one rule for both clients. No connection and no waiting here."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from ..core.errors import NotPossibleHere, Overloaded
from .messages import Call, Message, Reply, error_of

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.05  # before a server that could not be reached is tried again; doubled each time


class Unreachable(NotPossibleHere):
    """The connection failed before an answer came. Asking again does no harm: a prediction changes nothing."""


def conversation(
    call: Call[T], *, timeout: float, retries: int, clock: Callable[[], float] = time.monotonic
) -> Generator[tuple[Message, float] | float, Reply | None, T]:
    """Yields a message with the seconds that are left, for which it wants the reply (or to be thrown Unreachable), or seconds to pause.

    Ends with the answer. timeout: seconds for all of it; retries: times that it asks again where the server cannot be reached, or
    says that it has too much to do and when to come again. Raises what the server told.
    """
    due = clock() + timeout
    for attempt in range(retries + 1):
        left = due - clock()
        try:
            reply = yield call.make(left), left
            assert reply is not None
            if reply.status < 400:
                return call.read(reply)
            raise error_of(reply)
        except Unreachable as error:
            failure: NotPossibleHere = error
            pause = _FIRST_PAUSE_SECONDS * 2**attempt
        except Overloaded as error:
            failure, pause = error, error.retry_after_seconds
        pause *= 1 + random.random() / 4  # those who were refused together do not come back together
        if attempt == retries or clock() + pause >= due:
            raise failure
        yield pause
    raise AssertionError("the last attempt returns or raises")
