"""One process that runs a program (replica.py), seen from the server that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import NotPossibleHere, ReplicaLost
from ..core.seams import Arrays
from .channel import Channel, heard
from .shared import Entry, Shared

PATIENCE_SECONDS = 300.0
"""Who computes one call, or starts, for longer is taken for dead, and ended."""


class Placed(dict[str, np.ndarray]):
    """Tensors in the memory of the process that computes them next."""

    def __init__(self, process: Process, entries: Sequence[Entry], arrays: Arrays) -> None:
        super().__init__(arrays)
        self.process, self._entries = process, entries

    def run(self) -> dict[str, np.ndarray]:
        """The outputs. Raises what the program raised, ReplicaLost."""
        return self.process.call(self._entries)


class Process:
    """One process. `begin` it, wait until it has `loaded`; then one thread at a time may call it, and another wait until it has `ended`.

    ready: whether it answers, as far as is known.
    """

    def __init__(self) -> None:
        self.ready = False
        self._inputs, self._outputs = Shared(), Shared()
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = theirs.fileno(), self._inputs.descriptor, self._outputs.descriptor
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "hasten.serve.replica", *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # ours is for addresses; what it has to say goes to the server's own stderr
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C is the server's to handle
            )
        self._channel = Channel(ours, PATIENCE_SECONDS)

    def begin(self, order: Mapping[str, Any]) -> None:
        """Tell it what to load."""
        with contextlib.suppress(OSError):  # one that has ended already is told about by `loaded`
            self._channel.send(order)

    def loaded(self) -> None:
        """Wait until it can be called. Raises what loading raised, NotPossibleHere where it ended."""
        try:
            message = self._channel.receive()
        except (EOFError, OSError):
            self.kill()
            raise NotPossibleHere("replica", f"must load the program, but {self.ended()}") from None
        if "error" in message:
            raise heard(message["error"])
        self.ready = True

    def place(self, parts: Sequence[Arrays]) -> Placed:
        """The tensors of several requests together, where it sees them, until the next time."""
        return Placed(self, *self._inputs.write({name: [part[name] for part in parts] for name in parts[0]}))

    def call(self, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
        """The outputs for what was placed. Raises what the program raised, ReplicaLost."""
        try:
            self._channel.send(entries)
            message = self._channel.receive()
        except (EOFError, OSError):
            self.ready = False
            self.kill()
            raise ReplicaLost(f"was lost with the process that computed it, which {self.ended()}", retry_after_seconds=1.0) from None
        if "error" in message:
            raise heard(message["error"])
        return {name: array.copy() for name, array in self._outputs.read(message["outputs"]).items()}

    def kill(self) -> None:
        """End it, if it has not."""
        self._popen.kill()

    def ended(self) -> str:
        """Wait until it has ended; how, in words."""
        code = self._popen.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """Let go what was shared with it. Nobody may be calling it."""
        self._channel.close()
        self._inputs.close()
        self._outputs.close()
