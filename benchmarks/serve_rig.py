"""A server on one core, its load on another, and what both say afterwards."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import HERE, ROOT

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
_WITHOUT_BATCHING = "import hasten.serve.warmup as w; w.MAX_BATCH = 1; from hasten.cli import main; main()"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that runs. address: HOST:PORT; process: it and its children."""

    address: str
    process: psutil.Process

    def family(self) -> list[psutil.Process]:
        """It and its children, and theirs."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """What it and its children have used until now, those that have ended included: their parent has what they used."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                total += used.user + used.system + used.children_user + used.children_system
        return total

    def memory_bytes(self) -> int:
        total = 0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def ask(self, request: bytes) -> tuple[Mapping[str, str], bytes]:
        """The headers and the body of the answer to a whole HTTP request. RuntimeError where it is not 200."""
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {body[:500]!r}")
        return answer.headers, body

    def metrics(self) -> dict[str, float]:
        """The numbers of hasten's /metrics, labels left out, equal names added up."""
        found: dict[str, float] = {}
        for line in self.get("/metrics").decode().splitlines():
            if match := re.fullmatch(r"(\w+)(?:\{.*\})? (\S+)", line):
                found[match[1]] = found.get(match[1], 0.0) + float(match[2])
        return found

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return bytes(answer.read())


@contextmanager
def hasten(
    bundle: Path, *arguments: str, batching: bool = True, environment: Mapping[str, str] | None = None,
    cores: Sequence[int] = (SERVER_CORE,),
) -> Iterator[Server]:  # fmt: skip
    """`hasten serve BUNDLE ARGUMENTS` on `cores`. batching: False lets every call hold one sample; environment: variables besides the
    usual ones."""
    start = ["-m", "hasten"] if batching else ["-c", _WITHOUT_BATCHING]
    command = [sys.executable, *start, "serve", str(bundle), "--port", "0", *arguments]
    with started(command, address=lambda line: re.findall(r"http://(\S+)", line), environment=environment, cores=cores) as server:
        yield server


@contextmanager
def least(bundle: Path, *arguments: str) -> Iterator[Server]:
    """`serve_floor.py BUNDLE ARGUMENTS`: what remains when a server does nothing but run the program."""
    command = [sys.executable, str(HERE / "serve_floor.py"), str(bundle), "0", *arguments]
    with started(command, address=lambda line: re.findall(r"http://(\S+)", line)) as server:
        yield server


@contextmanager
def started(
    command: Sequence[str], *, address: str | Callable[[str], list[str]], ready: Callable[[str], bool] | None = None,
    environment: Mapping[str, str] | None = None, patience: float = 60.0, cores: Sequence[int] = (SERVER_CORE,),
) -> Iterator[Server]:  # fmt: skip
    """A server on its cores. address: HOST:PORT, or what finds it in a line of the output; ready: asked of the address until it is."""
    pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
    # The bundle has as many threads as the process may use, which is one; other libraries are told.
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})}
    with tempfile.TemporaryFile("w+") as words:
        child = subprocess.Popen(
            pinned, stdout=subprocess.PIPE, stderr=words, text=True, env=surroundings, cwd=ROOT, start_new_session=True
        )
        try:
            assert child.stdout is not None
            where = _found(child, address) if callable(address) else address
            threading.Thread(target=child.stdout.read, daemon=True).start()  # nobody must wait because the pipe is full
            deadline = time.monotonic() + patience
            while ready is not None and not ready(where):
                if time.monotonic() > deadline or child.poll() is not None:
                    words.seek(0)
                    raise RuntimeError(f"{command[0]} does not answer: {words.read()[-500:]}")
                time.sleep(0.2)
            yield Server(address=where, process=psutil.Process(child.pid))
        finally:
            _stop(child)


@contextmanager
def watched(server: Server, every: float) -> Iterator[list[tuple[float, int]]]:
    """The memory of a server meanwhile: seconds since the beginning, and bytes, every so many seconds."""
    seen: list[tuple[float, int]] = []
    over, began = threading.Event(), time.monotonic()

    def watch() -> None:
        while not over.wait(every):
            with contextlib.suppress(psutil.NoSuchProcess):  # who is gone is missed by those who ask him
                seen.append((time.monotonic() - began, server.memory_bytes()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _found(child: subprocess.Popen[str], find: Callable[[str], list[str]]) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if found := find(line):
            return found[0]
    raise RuntimeError(f"{child.args!r} ended")


def _stop(child: subprocess.Popen[str]) -> None:
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)] if child.poll() is None else []
    child.terminate()
    _, alive = psutil.wait_procs(family, timeout=15)
    for process in alive:
        process.kill()
    child.wait()


def answers(path: str) -> Callable[[str], bool]:
    """Whether an address answers `path` with 200."""

    def ready(address: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return ready


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Load -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the generator saw. Seconds since its beginning, one number a request; status 0: no answer."""

    due: np.ndarray
    sent: np.ndarray
    ended: np.ndarray
    status: np.ndarray
    phase: np.ndarray

    @property
    def good(self) -> np.ndarray:
        return np.asarray(self.status == 200)

    @property
    def latency(self) -> np.ndarray:
        return np.asarray(self.ended - self.due)

    def goodput(self, phase: int, objective: float) -> float:
        """The share of a phase's requests that were answered, and in time."""
        of = self.phase == phase
        return float((self.good & (self.latency <= objective))[of].mean())

    def rate(self) -> float:
        """Answers a second between a tenth of the time and its end."""
        ended = self.ended[self.good]
        last = float(self.due.max())
        return float(np.sum((ended > 0.1 * last) & (ended <= last)) / (0.9 * last))


def load(server: Server, requests: Sequence[bytes], *, keep: Path, **options: Any) -> Samples:
    """Run the generator on its core. keep: where the raw samples stay; options: its own (connections, seconds, phases, poisson)."""
    keep.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for k, request in enumerate(requests):
            files.append(str(Path(folder) / f"{k}.bin"))
            Path(files[-1]).write_bytes(request)
        flags = [part for key, value in options.items() for part in ([f"--{key}"] if value is True else [f"--{key}", str(value)])]
        generator = ["taskset", "-c", str(LOAD_CORE), sys.executable, str(HERE / "serve_generator.py"), server.address]
        subprocess.run([*generator, *files, *flags, "--out", str(keep)], check=True)
    with np.load(keep) as found:
        return Samples(**found)


def post(path: str, content: bytes, kind: str, **headers: str) -> bytes:
    """A whole HTTP request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def binary_request(model: str, name: str, tensor: np.ndarray, output: str) -> bytes:
    """Open Inference Protocol, the tensor as bytes, the answer as bytes."""
    raw = tensor.tobytes()
    entry = {"name": name, "datatype": "FP32", "shape": list(tensor.shape), "parameters": {"binary_data_size": len(raw)}}
    wanted = [{"name": output, "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [entry], "outputs": wanted}, separators=(",", ":")).encode()
    path, length = f"/v2/models/{model}/infer", str(len(head))
    return post(path, head + raw, "application/octet-stream", Inference_Header_Content_Length=length)


def json_request(model: str, name: str, tensor: np.ndarray) -> bytes:
    """Open Inference Protocol, the tensor as JSON numbers that a float32 needs, the answer as JSON."""
    data = [float(str(value)) for value in tensor.ravel()]
    entry = {"name": name, "datatype": "FP32", "shape": list(tensor.shape), "data": data}
    return post(f"/v2/models/{model}/infer", json.dumps({"inputs": [entry]}, separators=(",", ":")).encode(), "application/json")


def base64_request(picture: bytes, path: str = "/api/v1/classify", key: str = "image_base64") -> bytes:
    """A picture as base64 in JSON."""
    return post(path, json.dumps({key: b64encode(picture).decode()}).encode(), "application/json")
