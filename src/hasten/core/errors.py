"""Every error that hasten raises on purpose, and the exit code of each.

    HastenError                1   something else went wrong
    ├── JobError               2   the job is wrong: a key, a path, a callable
    │   ├── DataError          2   the data are wrong: empty, leaking, NaN, wrong shape
    │   ├── ModelError         2   the model is wrong: does not load, returns the wrong thing, NaN weights
    │   ├── BundleError        2   the bundle is wrong: truncated, changed, made by a newer version
    │   │   └── NotLoaded      2   so the server did not take it into service: what answered before still does
    │   └── UnknownModel       2   no model or version of this name is served
    ├── NotPossibleHere        3   the request is right, but this machine or this model does not allow it
    │   ├── ExportError        3   an operator cannot be exported
    │   ├── DiskFull           3   the disk is full: no fault of what was being done
    │   ├── NotAllowed         3   the server does not do this for whoever asks
    │   │   └── NotKnown       3   nor anything else: the key is missing or wrong
    │   ├── WorkerError        3   a child process crashed, was killed, or ran out of time or memory
    │   └── Overloaded         3   the server cannot answer in time now; the error says when to come again
    │       ├── QueueFull      3   as many requests wait as may
    │       ├── ReplicaLost    3   the process that computed the answer ended
    │       └── RateLimited    3   this key asks more than it may
    ├── MissingExtra           4   an optional package is missing; the message holds the install line
    └── LimitsNotMet           5   everything ran, and nothing keeps the limits

A message is one line and names the field, the rule, what came, and the way out.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

_NOTHING = object()
_MOST_FIELD = 200  # characters of it in a message: names may come from whoever sends a request


class HastenError(Exception):
    """A failure that a user can understand. `exit_code` is what the command line returns.

    field: what is wrong (`limits.max_drop`); rule: what must hold; got: what came instead; hint: the way out.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, field: str, rule: str, *, got: object = _NOTHING, hint: str = "") -> None:
        self.field, self.rule, self.hint = field, rule, hint
        text = f"{_cut(field, _MOST_FIELD)}: {rule}"
        if got is not _NOTHING:
            text += f", but got {_short(got)}"
        text += "."
        if hint:
            text += f" {hint}"
            if not hint.endswith((".", "?", "`")):
                text += "."
        super().__init__(" ".join(text.split()))

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own pickling calls __init__ with the finished message; errors cross process borders here.
        return (rebuild, (type(self), self.args[0], self.__dict__.copy()))


class JobError(HastenError):
    """The job is wrong."""

    exit_code = 2


class DataError(JobError):
    """The data are wrong."""


class ModelError(JobError):
    """The model is wrong."""


class BundleError(JobError):
    """The bundle is wrong."""


class NotLoaded(BundleError):
    """A new version was not taken into service: what answered before still does."""


class UnknownModel(JobError):
    """No model or version of this name is served."""


class NotPossibleHere(HastenError):
    """The request is right, but this machine or this model does not allow it."""

    exit_code = 3


class ExportError(NotPossibleHere):
    """The model cannot leave the module floor."""


class DiskFull(NotPossibleHere):
    """The disk of the store is full: no fault of the step, and nothing else would fare better."""

    def __init__(self) -> None:
        super().__init__("store", "needs space on the disk, which is full", hint="Free some, or set HASTEN_STORE to another disk")


class WorkerError(NotPossibleHere):
    """A child process failed. cause: why; after a time-out, too little memory, or a kill from outside, trying again may help."""

    Cause = Literal["crash", "timeout", "memory", "killed", "error"]

    def __init__(self, field: str, rule: str, *, cause: Cause, last_words: str = "", hint: str = "") -> None:
        super().__init__(field, rule, hint=hint)
        self.cause: WorkerError.Cause = cause
        self.last_words = last_words


class Overloaded(NotPossibleHere):
    """The server cannot answer in time now. retry_after_seconds: when it probably can, from now; above 0."""

    def __init__(self, rule: str, *, retry_after_seconds: float) -> None:
        self.retry_after_seconds = max(retry_after_seconds, 1e-3)
        super().__init__("request", rule, hint=f"Come again in {math.ceil(self.retry_after_seconds)} s")


class QueueFull(Overloaded):
    """As many requests wait as may."""


class ReplicaLost(Overloaded):
    """The process that computed the answer ended, or there is none that could."""


class RateLimited(Overloaded):
    """This key asks more than it may."""


class NotAllowed(NotPossibleHere):
    """The server does not do this for whoever asks."""


class NotKnown(NotAllowed):
    """The key is missing or wrong."""


class MissingExtra(HastenError):
    """An optional package is missing. package: its import name, empty where several would do."""

    exit_code = 4

    def __init__(self, field: str, rule: str, *, package: str = "", hint: str = "") -> None:
        super().__init__(field, rule, hint=hint)
        self.package = package


class LimitsNotMet(HastenError):
    """Everything ran, and nothing keeps the limits."""

    exit_code = 5


def _short(value: object) -> str:
    return _cut(repr(value), 120)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def rebuild(kind: type[HastenError], message: str, state: Mapping[str, Any]) -> HastenError:
    """An error as it was: its message and what it knew (`__dict__`), after a pipe or a store."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, says that no space is left."""
    return any(isinstance(e, DiskFull) or (isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)) for e in _chain(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, says that there was too little memory: a MemoryError, or a library's own words."""
    return any(
        isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno == errno.ENOMEM) or any(w in str(e).lower() for w in _NO_MEMORY)
        for e in _chain(error)
    )


_NO_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
)
"""How C++, PyTorch, ONNX Runtime and OpenVINO say it, in lower case."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__
