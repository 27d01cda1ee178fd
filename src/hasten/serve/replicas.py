"""A program in several processes, each of which is started again when it ends.

A process that ends takes one call with it, which raises ReplicaLost: calls are pure, so whoever made it may make it again. Nothing is
polled: one thread a process sleeps until that ends. One that has run for a while is started again at once, others after pauses
that double.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.read import Bundle
from ..core.errors import HastenError, NotPossibleHere, ReplicaLost
from ..core.machine import core_numbers
from ..core.seams import Arrays, Program
from .process import Placed, Process

_STEADY_SECONDS = 10.0  # who ran for as long is started again at once
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Staff:
    """The processes as they are now. ready: how many answer; back_seconds: where none does, until one probably will; away: why nobody
    should wait for that, where all of them have ended more than once."""

    ready: int
    back_seconds: float = 0.0
    away: str = ""


class Replicas(Program):
    """The program of `bundle` in `count` processes, each on cores of its own as far as there are enough. `close` ends them.

    They are ready. `run` and `room` may be called by many threads; more than there are processes wait. Raises what loading raises.
    """

    def __init__(self, bundle: Bundle, count: int) -> None:
        self.count, self._name = count, bundle.name
        self._order = {"path": os.fspath(bundle.path.absolute()), "digest": bundle.manifest.digest}
        self._changed = threading.Condition()  # guards what follows
        self._all, self._free = set[Process](), list[Process]()
        self._pauses: dict[int, tuple[float, float]] = {}  # of those that are to be started again, by number: seconds, and until when
        self._reason = ""  # why the last one that ended did
        self._closed = threading.Event()
        self._telling = threading.Lock()  # so that what is told last is what is
        self._told: Callable[[Staff], None] = lambda staff: None
        self._restarted: Callable[[], None] = lambda: None
        self._keepers: list[threading.Thread] = []
        self._start_seconds = 0.0
        try:
            self._begin()
        except OSError as error:
            self.close()
            raise NotPossibleHere("--replicas", f"cannot be started ({error.strerror})", got=count) from None
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Start them, all at the same time, and wait until they are ready."""
        began = time.monotonic()
        first = [self._spawned(number) for number in range(self.count)]
        for process in first:
            process.loaded()
        self._start_seconds = time.monotonic() - began
        self._free += first
        for number, process in enumerate(first):
            self._keepers.append(threading.Thread(target=self._keep, args=(number, process), name="hasten-replica", daemon=True))
        for keeper in self._keepers:
            keeper.start()

    @property
    def staff(self) -> Staff:
        with self._changed:
            if ready := sum(process.ready for process in self._all):
                return Staff(ready=ready)
            pause = 0.0
            if len(self._pauses) == self.count:
                pause = max(0.0, min(until for _, until in self._pauses.values()) - time.monotonic())
            return Staff(ready=0, back_seconds=pause + self._start_seconds, away=self._reason if self._is_hopeless() else "")

    def watch(self, told: Callable[[Staff], None], restarted: Callable[[], None]) -> None:
        """Call `told` now and when there is other staff, and `restarted` when a process is started again, on threads of these replicas."""
        self._told, self._restarted = told, restarted
        self._tell()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        if isinstance(inputs, Placed):
            return inputs.run()
        with self.room([inputs]) as placed:
            return placed.run()

    @contextlib.contextmanager
    def room(self, parts: Sequence[Arrays]) -> Iterator[Placed]:
        """The tensors of several requests together, in the memory of a free process: one copy. They are for one `run`.

        Raises ReplicaLost where there will be none soon.
        """
        process = self._take()
        try:
            yield process.place(parts)
        finally:
            with self._changed:
                if process.ready:
                    self._free.append(process)
                    self._changed.notify()
                else:
                    process.close()

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            for process in self._all:
                process.kill()
            self._changed.notify_all()
        for keeper in self._keepers:
            keeper.join()
        for process in self._all:  # those that nobody keeps yet, where not all could be started
            process.ended()
            process.close()

    def _tell(self) -> None:
        with self._telling:
            self._told(self.staff)

    def _take(self) -> Process:
        with self._changed:
            while not self._free:
                if self._closed.is_set() or self._is_hopeless():
                    raise ReplicaLost(f"needs a replica, and none runs: {self._reason}", retry_after_seconds=self._start_seconds)
                self._changed.wait()
            return self._free.pop(0)  # in turn: caches and clocks of all of them stay warm

    def _is_hopeless(self) -> bool:
        """Whether all have ended soon after they were started again."""
        return sum(seconds > _FIRST_PAUSE_SECONDS for seconds, _ in self._pauses.values()) == self.count

    def _spawned(self, number: int) -> Process:
        process = Process()
        with self._changed:
            self._all.add(process)
            if self._closed.is_set():  # `close` did not see it
                process.kill()
        process.begin({**self._order, "cores": part_of(core_numbers(), number, self.count)})
        return process

    def _keep(self, number: int, process: Process | None) -> None:
        """A thread's life: wait until the process has ended, start another one, and again, until all is closed."""
        pause, began = 0.0, time.monotonic()
        while True:
            if process is not None:
                self._lost(process, process.ended())
            steady = time.monotonic() - began >= _STEADY_SECONDS
            pause = 0.0 if steady else min(max(_FIRST_PAUSE_SECONDS, 2 * pause), _LONGEST_PAUSE_SECONDS)
            self._pause(number, pause)
            if self._closed.is_set():
                return
            began = time.monotonic()
            self._restarted()
            process = self._started(number)

    def _pause(self, number: int, seconds: float) -> None:
        if not seconds:
            return
        with self._changed:
            self._pauses[number] = seconds, time.monotonic() + seconds
            self._changed.notify_all()  # who waits for a process hears that there is none
        self._tell()
        self._closed.wait(seconds)
        with self._changed:
            del self._pauses[number]
        self._tell()

    def _started(self, number: int) -> Process | None:
        """Another process, ready; None where it did not become that."""
        try:
            process = self._spawned(number)
        except OSError as error:  # no memory, no descriptors
            self._failed(str(error))
            return None
        try:
            process.loaded()
        except HastenError as error:
            process.kill()
            process.ended()
            with self._changed:
                self._all.discard(process)
            process.close()
            self._failed(str(error))
            return None
        with self._changed:
            self._free.append(process)
            self._changed.notify()
        self._tell()
        return process

    def _lost(self, process: Process, how: str) -> None:
        """It has ended. Who has taken it closes it; otherwise nobody will take it any more."""
        with self._changed:
            process.ready = False
            self._all.discard(process)
            if process in self._free:
                self._free.remove(process)
                process.close()
        self._failed(f"the last one {how}")

    def _failed(self, reason: str) -> None:
        self._reason = reason
        if not self._closed.is_set():
            _log.warning("a replica of %s is started again: %s", self._name, reason)
            self._tell()


def part_of(cores: Sequence[int], number: int, count: int) -> list[int]:
    """The cores of process `number` of `count`: a part that no other one has, or one core where there are too few.

    Without that, runtimes that bind their threads to cores (OpenVINO) would bind those of all processes to the same ones.
    """
    share = max(1, len(cores) // count)
    return [cores[(number * share + k) % len(cores)] for k in range(share)]
