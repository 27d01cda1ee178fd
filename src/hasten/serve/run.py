"""Runs the server of one bundle until it is told to stop."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..bundle.read import Bundle
from ..core.errors import JobError, NotPossibleHere

GRACE_SECONDS = 10  # for requests under way at shutdown


def serve(
    path: Path, *, host: str = "127.0.0.1", port: int = 8000, announce: Callable[[str], None] | None = None, log_level: str = "warning"
) -> None:
    """Serve the bundle in `path` until SIGINT or SIGTERM; requests under way are finished first.

    port: 0 takes a free one; announce: called with the URL once connections are taken. Every file is checked and the
    program is loaded before that. Raises BundleError, NotPossibleHere.
    """
    import uvicorn

    from .app import create_app

    with Bundle.open(path) as bundle:
        for name in bundle.manifest.files:
            bundle.file(name)
        bundle.load()
        with _listen(host, port) as listening:
            config = uvicorn.Config(
                create_app(bundle), log_level=log_level, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_SECONDS
            )
            if announce is not None:
                announce(_url(listening))
            with _quiet_stop():
                uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise JobError("--port", "must be from 0 (any free one) to 65535", got=port)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise JobError("--host", f"must be an address of this machine ({error.strerror})", got=host) from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise NotPossibleHere("--port", f"{port} is in use on {host}", hint="Name another one; 0 takes any free one") from None
        raise NotPossibleHere("--host", f"cannot listen on {host} port {port} ({error.strerror})") from None
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _quiet_stop() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more when it is done: to be told to stop is no failure."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.signal(kind, lambda *_: None) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
