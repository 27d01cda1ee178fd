"""Other servers, each in an environment of its own: out/serve-peers/NAME."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import HERE, ROOT
from serve_rig import Server, answers, base64_request, binary_request, free_port, json_request, post, started

ROOM = ROOT / "out" / "serve-peers"
SCRIPTS = HERE / "serve_peers"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """requests: by kind, from a tensor and a picture; ready: the path that answers 200 when it is ready."""

    packages: tuple[str, ...]
    ready: str
    requests: Callable[[np.ndarray, bytes], Mapping[str, bytes]]


def _protocol(tensor: np.ndarray, picture: bytes) -> dict[str, bytes]:
    return {"binary": binary_request("tiny", "pixels", tensor, "scores"), "json": json_request("tiny", "pixels", tensor)}


def _json_only(tensor: np.ndarray, picture: bytes) -> dict[str, bytes]:
    return {"json": json_request("tiny", "pixels", tensor)}


def _own(path: str, *, binary: bool) -> Callable[[np.ndarray, bytes], dict[str, bytes]]:
    """Requests of a server that has a protocol of its own."""

    def requests(tensor: np.ndarray, picture: bytes) -> dict[str, bytes]:
        numbers = json.dumps({"data": [float(str(value)) for value in tensor.ravel()]}, separators=(",", ":")).encode()
        made = {"json": post(path, numbers, "application/json"), "base64": base64_request(picture, path, "image")}
        return {"binary": post(path, tensor.tobytes(), "application/octet-stream"), **made} if binary else made

    return requests


PEERS = {
    "triton": Peer(packages=("nvidia-pytriton==0.7.0",), ready="/v2/health/ready", requests=_protocol),
    "litserve": Peer(packages=("litserve==0.2.19",), ready="/health", requests=_own("/predict", binary=False)),
    "mosec": Peer(packages=("mosec",), ready="/", requests=_own("/inference", binary=True)),
    "mlserver": Peer(packages=("mlserver==1.7.1",), ready="/v2/health/ready", requests=_json_only),
}
"""Each with the packages that `python -m venv out/serve-peers/NAME` and pip put there, onnxruntime, numpy and pillow beside them."""


def installed(name: str) -> bool:
    return (ROOM / name / "bin" / "python").exists()


@contextmanager
def running(name: str, model: Path) -> Iterator[Server]:
    """The server of a peer with the net `model`."""
    port = free_port()
    command = [str(ROOM / name / "bin" / "python"), str(SCRIPTS / f"{name}_server.py"), str(model), str(port)]
    with started(command, address=f"127.0.0.1:{port}", ready=answers(PEERS[name].ready)) as server:
        yield server
