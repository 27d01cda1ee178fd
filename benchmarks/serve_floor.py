"""The least that a server in Python can do: it reads a request, runs the program, answers. What hasten takes beyond it is hasten's own.

    python benchmarks/serve_floor.py BUNDLE PORT [--here | --null]

Nothing is checked, counted, queued or batched, and the answer is the first output's bytes. The program runs on a thread of its own, as in
hasten (--here: on the event loop, which then can do nothing else meanwhile). --null: it does not run at all, which is what the load
generator and the sockets take. A request whose content is no tensor is a picture.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hasten.bundle.read import Bundle

Answer = Callable[[bytes, bytes], bytes]
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n"


def field(head: bytes, name: bytes) -> int | None:
    """A number in a request's head."""
    _, found, rest = head.lower().partition(name + b": ")
    return int(rest.split(b"\r\n", 1)[0]) if found else None


def answering(bundle: Bundle) -> Answer:
    """What turns a request (its head, its body) into the bytes of its answer."""
    spec, output = bundle.signature.inputs[0], bundle.signature.outputs[0].name

    def answer(head: bytes, body: bytes) -> bytes:
        start = field(head, b"inference-header-content-length")
        if start is None:
            tensors = bundle.prepare(body)
        else:
            tensors = {spec.name: np.frombuffer(body, spec.dtype, offset=start).reshape(1, *(n or 1 for n in spec.shape[1:]))}
        return bundle.run(tensors)[output].tobytes()

    return answer


class Connection(asyncio.Protocol):
    """One connection, one request at a time. work: takes a request and the function that its answer is given to."""

    def __init__(self, work: Callable[[bytes, bytes, Callable[[bytes], None]], None]) -> None:
        self.work, self.parts, self.head, self.left = work, list[bytes](), b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.parts:
            self.head, _, data = data.partition(b"\r\n\r\n")
            self.left = field(self.head, b"content-length") or 0
        self.parts.append(data)
        self.left -= len(data)
        if self.left <= 0:
            body, self.parts = b"".join(self.parts) if len(self.parts) > 1 else self.parts[0], []
            self.work(self.head, body, self.write)

    def write(self, content: bytes) -> None:
        self.transport.write(_HEAD % len(content) + content)


async def serve(port: int, answer: Answer, here: bool) -> None:
    """Until somebody ends the process."""
    loop, line = asyncio.get_running_loop(), queue.SimpleQueue[tuple[bytes, bytes, Callable[[bytes], None]]]()

    def worker() -> None:
        while True:
            head, body, write = line.get()
            loop.call_soon_threadsafe(write, answer(head, body))

    threading.Thread(target=worker, daemon=True).start()

    def at_once(head: bytes, body: bytes, write: Callable[[bytes], None]) -> None:
        write(answer(head, body))

    def hand_over(*request: object) -> None:
        line.put(request)  # type: ignore[arg-type]

    server = await loop.create_server(lambda: Connection(at_once if here else hand_over), "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="the least that a server in Python can do")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--here", action="store_true", help="run the program on the event loop")
    parser.add_argument("--null", action="store_true", help="do not run it at all")
    arguments = parser.parse_args()
    import uvloop

    with Bundle.open(arguments.bundle) as bundle, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answer = (lambda head, body: b"") if arguments.null else answering(bundle.load())
        runner.run(serve(arguments.port, answer, arguments.here or arguments.null))


if __name__ == "__main__":
    main()
