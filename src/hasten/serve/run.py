"""Runs the server of some bundles until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.read import Bundle
from ..core.errors import JobError, NotPossibleHere
from ..core.need import require
from .access import Access
from .access_log import AccessLog
from .door import Door
from .options import ServeOptions
from .staffing import Staffing
from .tls import Tls
from .tracing import Tracing
from .traffic import read_traffic

if TYPE_CHECKING:
    import uvicorn

    from .service import Service

NAME = re.compile(r"[A-Za-z0-9._-]+")
DEFAULTS = ServeOptions()
GRACE_SECONDS = 10  # for requests under way at shutdown


def serve(*bundles: Path | str, options: ServeOptions = DEFAULTS, announce: Callable[[str], None] | None = None) -> None:
    """Serve `bundles` until SIGINT or SIGTERM; requests under way are finished first.

    bundles: folders, or NAME=FOLDER; several of one name are its versions 1, 2, ...; announce: called with each address once connections
    are taken. Every bundle is proved and every program warmed up before that. Raises JobError, BundleError, NotPossibleHere, MissingExtra.
    """
    import uvicorn

    from . import hot
    from .app import create_app

    if options.grpc_port is not None:
        _check_port("--grpc-port", options.grpc_port)
        require("grpc", why="by --grpc-port")
    objective, memory_bytes = options.objective, options.memory_bytes
    traffic = read_traffic(split=options.split, canary=options.canary, shadow=options.shadow)
    tls = Tls.of(options.tls_cert, options.tls_key, options.tls_ca)
    staffing = Staffing.read(options.replicas, isolated=options.isolate)
    with contextlib.ExitStack() as opened:
        opened.callback((door := _door(options)).close)
        named = [_open(text, opened) for text in bundles]
        with listen(options.host, options.port) as listening:
            app = create_app(
                *(bundle for _, bundle in named),
                names=[name for name, _ in named],
                objective=objective,
                max_queue=options.max_queue,
                allow_reload=options.allow_reload,
                traffic=traffic,
                memory_bytes=memory_bytes,
                door=door,
                staffing=staffing,
            )
            config = uvicorn.Config(
                app,
                http=hot.protocol(app),
                log_level="error",  # with its warnings, anybody could write a line for each request that is none
                log_config=_quiet_forms(uvicorn.config.LOGGING_CONFIG),
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
                lifespan="on",
                **(tls.of_uvicorn() if tls else {}),
            )
            app.state.service.repository.start()  # what goes wrong here is one line, and nobody was told to come
            server = _server(config)
            with _quiet_stop(server), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(_run(server, listening, app.state.service, options, announce or (lambda _: None), tls))


def _quiet_forms(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` of logging, where the reader of forms does not warn of each that is wrong: who sent it is told."""
    return {**config, "loggers": {**config["loggers"], "python_multipart": {"level": "ERROR"}}}


def _door(options: ServeOptions) -> Door:
    """Raises JobError, MissingExtra."""
    access = None if options.api_keys is None else Access.read(options.api_keys)
    tracing = Tracing.of(options.traces)
    return Door(access=access, tracing=tracing, log=None if options.access_log is None else AccessLog(options.access_log))


async def _run(
    server: uvicorn.Server,
    listening: socket.socket,
    service: Service,
    options: ServeOptions,
    announce: Callable[[str], None],
    tls: Tls | None,
) -> None:
    async with contextlib.AsyncExitStack() as also:
        also.enter_context(_reloading(service))
        addresses = [_url(listening, "http" if tls is None else "https")]
        if options.grpc_port is not None:
            from .grpc_server import running

            port = await also.enter_async_context(running(service, options.host, options.grpc_port, grace=GRACE_SECONDS, tls=tls))
            addresses.append(f"{'grpc' if tls is None else 'grpcs'}://{_address(options.host, port)}")
        for address in addresses:
            announce(address)
        await server.serve(sockets=[listening])


@contextlib.contextmanager
def _reloading(service: Service) -> Iterator[None]:
    """SIGHUP loads all that is in service anew, where that is allowed; otherwise it ends the process, as ever."""
    if not service.repository.allowed or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def reload() -> None:
        tasks.add(task := asyncio.ensure_future(service.repository.reload()))  # the loop itself does not keep it
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _open(text: Path | str, opened: contextlib.ExitStack) -> tuple[str, Bundle]:
    """The bundle of one argument, checked, with its name."""
    name, equals, folder = str(text).partition("=")
    named = bool(equals) and not Path(text).exists()
    bundle = opened.enter_context(Bundle.open(folder if named else text))
    if named and not NAME.fullmatch(name):
        raise JobError("name", "must be letters, digits, dots, dashes or underscores", got=name)
    return name if named else bundle.name, bundle


def _check_port(field: str, port: int) -> None:
    if not 0 <= port <= 65535:
        raise JobError(field, "must be from 0 (any free one) to 65535", got=port)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. port: 0 takes a free one. Raises JobError, NotPossibleHere."""
    _check_port("--port", port)
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


def _url(listening: socket.socket, scheme: str) -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{_address(host, port)}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _server(config: uvicorn.Config) -> uvicorn.Server:
    """A server that leaves signals to `_quiet_stop`.

    uvicorn's own raises each signal once more at the end, when the programs are gone: after OpenVINO's was let go, any signal to the main
    thread ends in a segmentation fault (the stack for signals is its own, and Python's handlers use it).
    """
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(config)


@contextlib.contextmanager
def _quiet_stop(server: uvicorn.Server) -> Iterator[None]:
    """A signal stops the server, at once where it is the second one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
