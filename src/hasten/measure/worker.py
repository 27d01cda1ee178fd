"""A child process that does what it is told, one call at a time.

A runtime can crash, leak or set process-wide threads, so everything that touches one happens here. The child is a fresh
interpreter (no fork, no `__main__` of the caller), speaks pickles with its parent over a pipe, dies with its parent, and
its crash is a WorkerError with its last words.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..core.errors import DiskFull, HastenError, WorkerError, is_disk_full, is_out_of_memory

P = ParamSpec("P")
R = TypeVar("R")
State = dict[str, Any]
"""What a child remembers between calls."""

_POLL_SECONDS = 0.2
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
"""No program ends itself like that: the kernel, short of memory, or somebody else did."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


class Worker:
    """One child process. threads: what its libraries may use; memory_limit_bytes: it is ended beyond (default: 90 % of RAM); patient: its
    threads sleep while they wait for each other, and do not spin, which on shared cores keeps the one that is waited for from running."""

    def __init__(self, name: str, *, threads: int = 1, memory_limit_bytes: int | None = None, patient: bool = False) -> None:
        self.name = name
        self._limit = memory_limit_bytes or int(0.9 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        environment = {
            **(_PATIENT if patient else {}),
            **os.environ,
            **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hasten.measure.child", str(theirs_read), str(theirs_write), str(os.getpid())],
            pass_fds=(theirs_read, theirs_write),
            stdin=subprocess.DEVNULL,
            stdout=self._words,
            stderr=self._words,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        os.close(theirs_read)
        os.close(theirs_write)
        self._receive = Connection(ours_read, writable=False)
        self._send = Connection(ours_write, readable=False)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, function: Callable[Concatenate[State, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`function(state, *args, **kwargs)` in the child. Raises what it raises, or WorkerError."""
        return self.call_within(None, function, *args, **kwargs)

    def call_within(self, seconds: float | None, function: Callable[Concatenate[State, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`call` with a limit on time."""
        try:
            self._send.send_bytes(pickle.dumps((function, args, kwargs)))
            self._wait(seconds)
            ok, result = pickle.loads(self._receive.recv_bytes())  # noqa: S301 (our own child wrote it)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._crashed() from None
        except KeyboardInterrupt:
            self.close()
            raise
        if ok:
            return result  # type: ignore[no-any-return]
        raise result

    def close(self) -> None:
        """End the child. Nothing of it is left."""
        for end in (self._send, self._receive):
            with contextlib.suppress(OSError):
                end.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._words.close()

    def _wait(self, seconds: float | None) -> None:
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._receive.poll(_POLL_SECONDS):
            if deadline is not None and time.monotonic() > deadline:
                self._process.kill()
                raise WorkerError(self.name, f"took longer than {seconds:.0f} s and was ended", cause="timeout", hint="Give more budget")
            used = resident_bytes(self.pid)
            if used > self._limit:
                self._process.kill()
                raise WorkerError(
                    self.name,
                    f"needed more than {self._limit / 1e9:.1f} GB of memory and was ended",
                    cause="memory",
                    hint="Use fewer samples",
                )

    def _crashed(self) -> WorkerError:
        code = self._process.wait()
        self._words.seek(0)
        lines = self._words.read()[-4000:].decode(errors="replace").strip().splitlines()
        words = lines[-1].strip()[:300] if lines else "it said nothing"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        cause: WorkerError.Cause = "crash"
        if -code in _FROM_OUTSIDE:
            cause = "killed"
        elif "MemoryError" in words or "bad_alloc" in words:
            cause = "memory"
        return WorkerError(self.name, f"its process {how}; its last words: {words}", cause=cause, last_words="\n".join(lines))


def run(name: str, function: Callable[Concatenate[State, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
    """One call in a process of its own."""
    with Worker(name) as worker:
        return worker.call(function, *args, **kwargs)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now; 0 where it cannot be read."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def foreign(error: Exception, name: str) -> HastenError:
    """A child's exception as ours, on one line. What is only for now (a full disk, too little memory) shows, whoever translated it."""
    if is_disk_full(error):
        return DiskFull()
    if isinstance(error, HastenError) and not is_out_of_memory(error):
        return error
    text = (str(error).strip().splitlines() or [""])[0][:300]
    said = text if isinstance(error, HastenError) else f"raised {type(error).__name__}: {text}"
    return WorkerError(name, said, cause="memory" if is_out_of_memory(error) else "error")
