"""Short messages between a server and the processes that run its programs: JSON, one a line, one under way at a time."""

from __future__ import annotations

import json
import socket
from typing import Any

from ..core import errors
from ..core.errors import HastenError, rebuild

_PART = 65_536


class Channel:
    """One end of a connection between two processes. seconds: how long `receive` waits, None: for ever."""

    def __init__(self, connection: socket.socket, seconds: float | None = None) -> None:
        connection.settimeout(seconds)
        self._connection = connection
        self._rest = b""

    def send(self, message: Any) -> None:
        """Raises OSError where nobody is there to read it."""
        self._connection.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def receive(self) -> Any:
        """The next message. Raises EOFError where there will be none, TimeoutError, OSError."""
        while b"\n" not in self._rest:
            part = self._connection.recv(_PART)
            if not part:
                raise EOFError
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """The other side hears that nothing more will come."""
        self._connection.close()


def told(error: HastenError) -> list[Any]:
    """An error as a message."""
    return [type(error).__name__, str(error), {"field": error.field, "rule": error.rule, "hint": error.hint}]


def heard(message: list[Any]) -> HastenError:
    """The error that `told` told, of the same class, with the same words."""
    name, text, state = message
    return rebuild(getattr(errors, name, HastenError), text, state)
