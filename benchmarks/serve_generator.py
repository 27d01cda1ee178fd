"""Load for one HTTP server, from a process of its own: every request has its time, and its latency counts from then.

    python benchmarks/serve_generator.py 127.0.0.1:8000 request.bin --connections 16 --seconds 10 --out samples.npz
    python benchmarks/serve_generator.py 127.0.0.1:8000 a.bin b.bin --connections 512 --phases 400:60,200:5 --out samples.npz

Without --phases each connection asks again as soon as it is answered (saturation). With them requests are due at a constant rate
(or, with --poisson, at random at that mean rate), whether or not the former ones were answered; one that finds no free connection
waits for one and its latency goes on counting. That is what wrk2 does; wrk, ab and hey leave that time out. A connection that the
server closes is opened again.

A request file is a whole HTTP/1.1 request. Answers must have a content-length or end with a chunk of zero bytes; their bodies are not
looked at. samples.npz: due, sent, ended (seconds since the beginning, one number a request), status (0: the connection broke, or nothing
came until 10 seconds after the end), phase.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

GRACE_SECONDS = 10.0
"""After the end: what is not answered then counts as never answered."""
COLUMNS = {"due": np.float64, "sent": np.float64, "ended": np.float64, "status": np.int16, "phase": np.int8}


@dataclass(slots=True)
class Sample:
    """One request. Times in seconds since the beginning."""

    due: float
    phase: int
    sent: float = 0.0
    ended: float = 0.0
    status: int = 0


@dataclass
class Load:
    """What is to be sent, and what was."""

    requests: list[bytes]
    samples: list[Sample] = field(default_factory=list)
    line: deque[Sample] = field(default_factory=deque)  # due, and without a connection
    free: deque[Connection] = field(default_factory=deque)  # in turn: one that is idle for seconds is closed by the server
    began: float = 0.0
    until: float = 0.0  # closed loop: when to stop; 0: an open loop
    open: int = 0  # requests that are not answered
    replace: Callable[[], object] = lambda: None  # opens a connection in the place of one that was closed

    def now(self) -> float:
        return time.perf_counter() - self.began

    def next(self) -> Sample | None:
        """What a connection that is free sends now."""
        if self.line:
            return self.line.popleft()
        if self.until and (now := self.now()) < self.until:
            self.samples.append(sample := Sample(due=now, phase=0))
            return sample
        return None

    def arrive(self, sample: Sample) -> None:
        """A request is due."""
        self.samples.append(sample)
        self.again(sample)

    def again(self, sample: Sample) -> None:
        """Send it, or let it wait for a connection."""
        if self.free:
            self.free.popleft().send(sample)
        else:
            self.line.append(sample)


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load, self.sample, self.buffer = load, None, b""
        self.left = -1  # bytes of the answer that are still to come; -1: its head is not complete
        self.chunked = False
        self.count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, sample: Sample) -> None:
        self.sample = sample
        self.load.open += 1
        sample.sent = self.load.now()
        self.count += 1
        self.transport.write(self.load.requests[self.count % len(self.load.requests)])

    def data_received(self, data: bytes) -> None:
        if self.left < 0:
            self.buffer += data
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            self.sample.status = int(head[9:12])
            at = head.find(b"content-length:")
            self.chunked = at < 0
            data, self.buffer = self.buffer[end + 4 :], b""
            self.left = 0 if self.chunked else int(head[at + 15 :].split(b"\r\n", 1)[0])
        if self.chunked:
            self.buffer = (self.buffer + data)[-5:]
            if self.buffer == b"0\r\n\r\n":
                self.buffer = b""
                self.done()
            return
        self.left -= len(data)
        if self.left <= 0:
            self.done()

    def done(self) -> None:
        self.sample.ended, self.left = self.load.now(), -1
        self.sample = None
        self.load.open -= 1
        self.go_on()

    def go_on(self) -> None:
        sample = self.load.next()
        if sample is None:
            self.load.free.append(self)
        else:
            self.send(sample)

    def connection_lost(self, error: Exception | None) -> None:
        with contextlib.suppress(ValueError):
            self.load.free.remove(self)
        self.load.replace()
        if self.sample is None:
            return
        sample, self.sample = self.sample, None
        self.load.open -= 1
        if self.left < 0 and not self.buffer:  # the server closed it because it was idle, as the request left: every client asks again
            self.load.again(sample)
        else:
            sample.ended, sample.status = self.load.now(), 0


def times(phases: list[tuple[float, float]], poisson: bool) -> Iterator[tuple[int, float]]:
    """The phase and the time of each request. phases: requests a second, and for how many seconds."""
    rng, start = np.random.default_rng(1), 0.0
    for phase, (rate, seconds) in enumerate(phases):
        count = int(rate * seconds)
        offsets = np.sort(rng.uniform(0, seconds, count)) if poisson else np.arange(count) / rate
        for offset in offsets:
            yield phase, start + float(offset)
        start += seconds


async def run(arguments: argparse.Namespace) -> Load:
    """All of it."""
    load = Load(requests=[path.read_bytes() for path in arguments.requests])
    loop = asyncio.get_running_loop()
    host, port = arguments.address.split(":")

    async def connect() -> Connection:
        return (await loop.create_connection(lambda: Connection(load), host, int(port)))[1]

    async def replace() -> None:
        while True:
            try:
                (await connect()).go_on()
                return
            except OSError:  # nobody listens, or the line is full
                await asyncio.sleep(0.1)

    connections, replacing = [await connect() for _ in range(arguments.connections)], set[asyncio.Task[None]]()

    def begin_replacing() -> None:
        replacing.add(task := loop.create_task(replace()))
        task.add_done_callback(replacing.discard)

    load.replace = begin_replacing
    load.began = time.perf_counter()
    if arguments.phases:
        load.free.extend(connections)
        for phase, due in times(arguments.phases, arguments.poisson):
            while (wait := due - load.now()) > 0:
                await asyncio.sleep(wait - 0.002 if wait > 0.003 else 0)  # the loop's clock has milliseconds
            load.arrive(Sample(due=due, phase=phase))
    else:
        load.until = arguments.seconds
        for connection in connections:
            connection.go_on()
        await asyncio.sleep(arguments.seconds)
    deadline = time.perf_counter() + GRACE_SECONDS
    while (load.open or load.line) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    for sample in load.samples:
        if not sample.ended:
            sample.status = 0  # the head of its answer may have come
    return load


def phase_list(text: str) -> list[tuple[float, float]]:
    return [(float(rate), float(seconds)) for rate, _, seconds in (part.partition(":") for part in text.split(","))]


def main() -> None:
    parser = argparse.ArgumentParser(description="load for one HTTP server")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("requests", nargs="+", type=Path, metavar="FILE", help="whole requests, sent in turn")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="of saturation (default: %(default)s)")
    parser.add_argument("--phases", type=phase_list, metavar="RATE:SECONDS,...", help="requests a second, for so long")
    parser.add_argument("--poisson", action="store_true", help="at random instead of evenly")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    gc.disable()
    with runner:
        load = runner.run(run(arguments))
    columns = {name: np.array([getattr(s, name) for s in load.samples], kind) for name, kind in COLUMNS.items()}
    np.savez_compressed(arguments.out, **columns)


if __name__ == "__main__":
    main()
