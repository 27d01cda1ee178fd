"""The other end of worker.py: `python -m hasten.measure.child READ_FD WRITE_FD PARENT_PID`."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from hasten.core.errors import HastenError
from hasten.core.registry import load_plugins
from hasten.measure.worker import State, foreign

_PR_SET_PDEATHSIG = 1


def main(read: int, write: int, parent: int) -> None:
    """Answer calls until the parent closes the pipe or dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask to be told
        return
    receive, send = Connection(read, writable=False), Connection(write, readable=False)
    state: State = {}
    while True:
        try:
            message = receive.recv_bytes()
        except EOFError:
            return
        send.send_bytes(_answer(message, state))


def _answer(message: bytes, state: State) -> bytes:
    name = "worker"
    try:
        load_plugins()
        function, args, kwargs = pickle.loads(message)  # noqa: S301 (our own parent wrote it)
        name = function.__name__
        return pickle.dumps((True, function(state, *args, **kwargs)))
    except Exception as error:  # noqa: BLE001 (the border between processes: the parent must hear of it, whatever it was)
        if not isinstance(error, HastenError):
            traceback.print_exc()
        return pickle.dumps((False, foreign(error, name)))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
