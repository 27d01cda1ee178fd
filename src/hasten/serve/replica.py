"""A process that runs one program for a server: `python -m hasten.serve.replica CONNECTION INPUTS OUTPUTS`, three descriptors.

The first message says which program: {"path", "digest", "cores"}; the answer, {} or {"error": ...}. Then each message is a call: where
its tensors lie in the memory INPUTS; the answer is where the outputs lie in OUTPUTS. It ends when the server closes the connection or dies,
in the middle of a call too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
from dataclasses import replace
from typing import Any

from ..bundle.read import Bundle
from ..core.errors import BundleError, HastenError
from ..core.seams import Program
from .channel import Channel, told
from .shared import Shared

_log = logging.getLogger(__name__)


def main(connection: int, inputs: int, outputs: int) -> None:
    """Load the program and answer calls."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)  # a group of processes is told to stop together: who was taken is to be answered first
    threading.Thread(target=_end_with_server, args=(connection,), daemon=True).start()
    channel = Channel(socket.socket(fileno=connection))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            program = _loaded(**channel.receive())
        except HastenError as error:
            channel.send({"error": told(error)})
            return
        channel.send({})
        taken, given = Shared(inputs), Shared(outputs)
        while True:
            channel.send(_answer(program, channel.receive(), taken, given))


def _end_with_server(connection: int) -> None:
    poll = select.poll()
    poll.register(connection, 0)  # no event is asked for: it wakes when the other side is gone
    poll.poll()
    os._exit(1)  # nobody waits for what is under way


def _loaded(*, path: str, digest: str, cores: list[int]) -> Program:
    """The program of the bundle in `path`, checked and warm, on `cores`. digest: of the manifest that it must have. Raises HastenError."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    bundle = Bundle.open(path)
    if bundle.manifest.digest != digest:
        raise BundleError("bundle", "is another one now than the one in service", got=path, hint="Load the model anew")
    program = bundle.program(replace(bundle.target, threads=min(bundle.target.threads, len(cores))))
    bundle.use(program).run_as_certified(bundle.golden.tensors)
    return program


def _answer(program: Program, entries: Any, taken: Shared, given: Shared) -> dict[str, Any]:
    try:
        outputs = program.run(taken.read(entries))
        return {"outputs": given.write({name: [array] for name, array in outputs.items()})[0]}
    except HastenError as error:
        return {"error": told(error)}
    except Exception as error:  # noqa: BLE001 (the border between processes: whoever asked must hear of it, whatever it was)
        _log.error("a call failed", exc_info=error)
        return {"error": told(HastenError("program", f"raised {type(error).__name__}"))}


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
