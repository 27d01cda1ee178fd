"""Whether the cores that a machine promises are there just now.

A virtual core may be half of a real one: when the host puts two of a guest's on one, each is slower while both work, and no counter of the
guest tells. Programs of two threads then took 1.6 times as long for minutes on end, programs of one thread as long as ever, so that races
between them were decided by the hour. So it is tried, on work that needs no memory and takes milliseconds.
"""

from __future__ import annotations

import hashlib
import statistics
import threading
import time
from collections.abc import Callable

_WORK = bytes(1 << 19)  # hashing it takes half a millisecond and holds no lock
_PAIRS = 7
SHARED = 1.35
"""A slowdown above it means that cores are shared: with cores of one's own it was 1.07 to 1.13, on one core 1.6 and more."""


def slowdown(threads: int) -> float:
    """How much longer a piece of work takes while `threads` threads do it than while one does: 1 where each has a core of its own."""
    if threads < 2:
        return 1.0
    pairs = [(_seconds(1), _seconds(threads)) for _ in range(_PAIRS)]
    return statistics.median(many for _, many in pairs) / statistics.median(one for one, _ in pairs)


def settled(
    threads: int, patience_seconds: float, *, probe: Callable[[int], float] = slowdown, pause: Callable[[float], None] = time.sleep
) -> float:  # fmt: skip
    """The slowdown, once it is that of cores of one's own, or when patience has ended. probe, pause: for tests."""
    found, waited = probe(threads), 0.0
    while found > SHARED and waited < patience_seconds:
        pause(0.5)
        waited += 0.5
        found = probe(threads)
    return found


def _seconds(threads: int) -> float:
    gate, ends = threading.Barrier(threads + 1), []

    def work() -> None:
        gate.wait()
        for _ in range(2):
            hashlib.sha256(_WORK).digest()
        ends.append(time.perf_counter())

    crowd = [threading.Thread(target=work) for _ in range(threads)]
    for one in crowd:
        one.start()
    gate.wait()
    began = time.perf_counter()
    for one in crowd:
        one.join()
    return max(ends) - began
