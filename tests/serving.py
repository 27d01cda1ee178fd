"""A server in this process on a real socket, and one in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import uvicorn
from starlette.applications import Starlette

from hasten.core.seams import Arrays, Program
from hasten.serve import hot
from hasten.serve.run import listen

DATATYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL"}
_SERVE = """
import json, sys
from hasten.serve.options import ServeOptions
from hasten.serve.run import serve
options = json.loads(sys.argv[1])
serve(*sys.argv[2:], options=ServeOptions(port=0, **options), announce=lambda address: print(address, flush=True))
assert not {"torch", "onnx", "openvino", "sklearn", "matplotlib"} & set(sys.modules), "served without training libraries"
print("stopped", flush=True)
"""


@contextmanager
def process(
    *bundles: Path | str, grpc: bool = False, stderr: Any = subprocess.PIPE, prepare: Callable[[], None] = lambda: None, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`hasten.serve.run.serve` in a process of its own, with the addresses that it announced.

    stderr: where its log goes; prepare: called in the process before it begins.
    """

    def begin() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, tests and what they start would ignore it
        prepare()

    command = [sys.executable, "-c", _SERVE, json.dumps({**options, "grpc_port": 0 if grpc else None}), *map(str, bundles)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, preexec_fn=begin) as child:
        try:
            assert child.stdout is not None
            addresses = [child.stdout.readline().strip() for _ in range(1 + grpc)]
            assert all(addresses), f"the server ended at its start: {child.wait(20)}, {child.stderr.read() if child.stderr else ''}"
            yield child, addresses
        finally:
            child.kill()


@contextmanager
def here(app: Starlette, *, hot_path: bool = True) -> Iterator[tuple[uvicorn.Server, str]]:
    """`app` on a socket of this process, ready. hot_path: as `hasten serve` runs it; otherwise every request goes the ordinary way."""
    http: Any = hot.protocol(app) if hot_path else "httptools"
    with listen("127.0.0.1", 0) as socket:
        server = uvicorn.Server(uvicorn.Config(app, http=http, log_level="critical", lifespan="on", timeout_graceful_shutdown=30))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            url = "http://{}:{}".format(*socket.getsockname())
            assert httpx.get(f"{url}/v2/health/ready", timeout=60).status_code == 200  # answered after the warm-up
            yield server, url
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a server has started."""
    return psutil.Process(process.pid).children(recursive=True)


def metric(url: str, name: str, **labels: str) -> float:
    """A number at /metrics, 0 where it is not there; of several that have these labels, the sum."""
    total = 0.0
    for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines():
        if line.startswith((f"{name} ", f"{name}{{")) and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def until(holds: Callable[[], bool], what: str) -> None:
    """Ask until it holds. Each question is a request or a look at a process, which takes its time; a minute's worth of them is too many."""
    for _ in range(20_000):
        if holds():
            return
        os.sched_yield()
    raise AssertionError(f"never: {what}")


def tensors(count: int) -> dict[str, np.ndarray]:
    """`count` samples for the model of `bundles.tensor_contents`."""
    rng = np.random.default_rng(count)
    return {
        "left": rng.normal(size=(count, 3)).astype(np.float32),
        "right": rng.normal(size=(count, 3)).astype(np.float32),
        "ids": rng.integers(-(2**40), 2**40, size=count),
        "flags": rng.random((count, 2)) < 0.5,
    }


def wrapped(client_of: Any, values: dict[str, np.ndarray], **options: Any) -> list[Any]:
    """Tensors as one of tritonclient's modules, `client_of`, takes them."""
    made = []
    for name, array in values.items():
        one = client_of.InferInput(name, list(array.shape), DATATYPES[str(array.dtype)])
        one.set_data_from_numpy(array, **options)
        made.append(one)
    return made


class Held(Program):
    """Zeros for each sample, after it was released. It is released at first, so that it can be warmed up; `hold` it then."""

    def __init__(self, output: str, numbers: int) -> None:
        self.entered, self.released = threading.Event(), threading.Event()
        self.released.set()
        self.sizes: list[int] = []
        self.inside = self.most = 0
        self._output, self._numbers = output, numbers

    def hold(self) -> None:
        self.entered.clear()
        self.released.clear()
        self.sizes.clear()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        size = len(next(iter(inputs.values())))
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.sizes.append(size)
        self.entered.set()
        assert self.released.wait(30)
        self.inside -= 1
        return {self._output: np.zeros((size, self._numbers), np.float32)}
