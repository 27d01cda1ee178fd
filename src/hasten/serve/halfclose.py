"""A client that sends no more: it may wait for its answer, or be gone. Both look alike until something is sent to it.

So it is sent an interim answer, which any client of HTTP/1.1 must be able to skip (RFC 9110, 15.2). Who is gone answers that with a reset,
and takes his request along; who is there waits on.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
LOOK_SECONDS = 0.05
"""How often one looks for the reset. A transport that has read the end of a stream does not tell."""

_TCP_CLOSE = 7  # linux/tcp_states.h: nothing goes either way


def can_tell(transport: asyncio.Transport) -> bool:
    """Whether this connection can be half closed, and the machine says when it is closed. TLS has no half."""
    return sys.platform == "linux" and transport.get_extra_info("sslcontext") is None


def ask(transport: asyncio.Transport, cycle: Any) -> None:
    """Close `transport` when its client turns out to be gone before `cycle`, one request and its answer, is complete."""
    if cycle.scope["http_version"] == "1.1" and not cycle.response_started:
        transport.write(INTERIM)
    _look(transport, cycle)


def _look(transport: asyncio.Transport, cycle: Any) -> None:
    if cycle.response_complete or transport.is_closing():
        return
    if _state(transport) == _TCP_CLOSE:
        transport.abort()
    else:
        asyncio.get_running_loop().call_later(LOOK_SECONDS, _look, transport, cycle)


def _state(transport: asyncio.Transport) -> int:
    told: bytes = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return told[0]
