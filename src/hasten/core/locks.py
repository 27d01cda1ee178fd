"""Locks between processes, as files. The kernel gives a lock back when its holder dies, whatever it dies of."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

_LEASE = "lease"


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False) -> Iterator[None]:
    """`path` locked for this caller alone, or together with all who share it. Waits for it; the file stays."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        _give_back(descriptor)


@contextlib.contextmanager
def only_one(path: Path, waits: Callable[[], None]) -> Iterator[None]:
    """`path` locked for this caller alone; the file goes with the lock. waits: called before waiting for somebody else."""
    while True:
        descriptor = _open(path)
        try:
            if not _taken_at_once(descriptor):
                waits()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_still(descriptor, path):  # whoever held it has removed the file: a lock on nothing
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # while it is held, so that nobody else's goes
            return
        finally:
            _give_back(descriptor)


class Lease:
    """A folder of one user of a store, for as long as the process lives and this object is kept; then it is gone.

    folder: where it writes; opened: since when (Unix time). After kill -9 the folder is left, and its lock is free.
    """

    def __init__(self, parent: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        descriptor = _open(self.folder / _LEASE)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self.opened = time.time()
        os.utime(self.folder / _LEASE, (self.opened, self.opened))
        weakref.finalize(self, _end_lease, self.folder, descriptor, os.getpid())

    @staticmethod
    def opened_at(folder: Path) -> float | None:
        """Since when the lease of `folder` is in use (Unix time), or None where nobody is alive to use it."""
        try:
            descriptor = os.open(folder / _LEASE, os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return None if _taken_at_once(descriptor) else os.fstat(descriptor).st_mtime
        finally:
            _give_back(descriptor)


def remove_if_free(path: Path) -> bool:
    """Remove the file of a lock of `only_one` that nobody holds: its holder was killed."""
    descriptor = _open(path)
    try:
        free = _taken_at_once(descriptor) and _is_still(descriptor, path)
        if free:
            path.unlink()
        return free
    finally:
        _give_back(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _give_back(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a forked child has the descriptor too
    os.close(descriptor)


def _taken_at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _end_lease(folder: Path, descriptor: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has the object too, but not the right to end it
        shutil.rmtree(folder, ignore_errors=True)
        _give_back(descriptor)
