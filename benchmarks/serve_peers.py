"""Other servers, each in an environment of its own: out/serve-peers/NAME.

    python benchmarks/serve_peers.py --install                # all of them: 3 GB, ten minutes
    python benchmarks/serve_peers.py --install triton mosec
    python benchmarks/serve_peers.py                          # what is installed

How each is set up is in serve_peers/NAME_server.py, and why in docs/decisions/0028-serving-peers.md. They are measured by the sections
`peers` and `peers-goodput` of serve_load.py; what is not installed is left out there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from common import HERE, ROOT
from serve_rig import Server, answers, base64_request, binary_request, free_port, json_request, post, started

ROOM = ROOT / "out" / "serve-peers"
SCRIPTS = HERE / "serve_peers"
INSTALLED = ".installed"
"""A file that an environment has when it is complete."""
Requests = Callable[[str, np.ndarray, bytes], Mapping[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """requests: by kind, from the model's name, a tensor and a picture; ready: the path that answers 200 when it is ready; limited:
    whether anything can be told it of an objective; patience: seconds that its start may take."""

    package: str
    ready: str
    requests: Requests
    limited: bool = True
    patience: float = 60.0


def _protocol(model: str, tensor: np.ndarray, picture: bytes) -> dict[str, bytes]:
    return {"binary": binary_request(model, "pixels", tensor, "scores"), "json": json_request(model, "pixels", tensor)}


def _json_only(model: str, tensor: np.ndarray, picture: bytes) -> dict[str, bytes]:
    return {"json": json_request(model, "pixels", tensor)}


def _kserve(model: str, tensor: np.ndarray, picture: bytes) -> dict[str, bytes]:
    """Pictures come by its first protocol."""
    first = json.dumps({"instances": [{"image": {"b64": b64encode(picture).decode()}}]}).encode()
    return {**_protocol(model, tensor, picture), "base64": post(f"/v1/models/{model}:predict", first, "application/json")}


def _bentoml(model: str, tensor: np.ndarray, picture: bytes) -> dict[str, bytes]:
    """Everything comes in batches of one."""
    numbers = json.dumps({"data": _numbers(tensor).tolist()}, separators=(",", ":")).encode()
    pictures = json.dumps({"image": [b64encode(picture).decode()]}).encode()
    return {"json": post("/predict", numbers, "application/json"), "base64": post("/classify", pictures, "application/json")}


def _own(path: str, *, binary: bool) -> Requests:
    """Requests of a server that has a protocol of its own."""

    def requests(model: str, tensor: np.ndarray, picture: bytes) -> dict[str, bytes]:
        numbers = json.dumps({"data": _numbers(tensor).ravel().tolist()}, separators=(",", ":")).encode()
        made = {"json": post(path, numbers, "application/json"), "base64": base64_request(picture, path, "image")}
        return {"binary": post(path, tensor.tobytes(), "application/octet-stream"), **made} if binary else made

    return requests


def _numbers(tensor: np.ndarray) -> np.ndarray:
    """As doubles that have no more digits than a float32 needs."""
    return np.array([float(str(value)) for value in tensor.ravel()]).reshape(tensor.shape)


PEERS = {
    "triton": Peer(package="nvidia-pytriton==0.7.0", ready="/v2/health/ready", requests=_protocol),
    "litserve": Peer(package="litserve==0.2.19", ready="/health", requests=_own("/predict", binary=False)),
    "mosec": Peer(package="mosec==0.9.8", ready="/", requests=_own("/inference", binary=True)),
    "mlserver": Peer(package="mlserver==1.7.1", ready="/v2/health/ready", requests=_json_only, limited=False),
    "bentoml": Peer(package="bentoml==1.4.39", ready="/readyz", requests=_bentoml),
    "kserve": Peer(package="kserve==0.21", ready="/v2/health/ready", requests=_kserve, limited=False),
    "ray": Peer(package="ray[serve]==2.60", ready="/predict", requests=_own("/predict", binary=True), patience=180.0),
}


def installed(name: str) -> bool:
    return (ROOM / name / INSTALLED).exists()


def install(name: str) -> None:
    """Its environment, with the same runtime as hasten's. What pip says is shown."""
    python = ROOM / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    packages = [PEERS[name].package, f"onnxruntime=={version('onnxruntime')}", "numpy", "pillow"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    (ROOM / name / INSTALLED).touch()


def versions(name: str) -> str:
    """What is installed of a peer, as `name version, name version`."""
    packages = [PEERS[name].package.partition("==")[0].partition("[")[0], "onnxruntime"]
    code = f"from importlib.metadata import version; print(', '.join(f'{{p}} {{version(p)}}' for p in {packages}))"
    return subprocess.run([ROOM / name / "bin" / "python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server is told of the objective. seconds: that an answer may take; places: how many requests may wait, where that is told."""

    seconds: float
    places: int | None = None


@contextmanager
def running(name: str, model: Path, limits: Limits | None = None) -> Iterator[Server]:
    """The server of a peer with the net `model`, which has the name of its file. Who cannot be told of limits is not told."""
    port, peer = free_port(), PEERS[name]
    command = [str(ROOM / name / "bin" / "python"), str(SCRIPTS / f"{name}_server.py"), str(model), str(port)]
    if limits is not None and peer.limited:
        command += [str(limits.seconds), *([str(limits.places)] if limits.places is not None else [])]
    with started(command, address=f"127.0.0.1:{port}", ready=answers(peer.ready), patience=peer.patience) as server:
        yield server


def check(server: Server, requests: Mapping[str, bytes], model: Path, tensor: np.ndarray, picture: bytes) -> None:
    """Whether every kind of request gets the net's own scores; RuntimeError where it does not."""
    net = runpy.run_path(str(SCRIPTS / "_net.py"))
    session, image = net["session"](str(model)), net["from_base64"](b64encode(picture).decode())[None]
    for kind, request in requests.items():
        wanted = session.run(None, {"pixels": image if kind == "base64" else tensor})[0].ravel()
        found = _scores(*_answered(server, request))
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-4, atol=1e-5):
            raise RuntimeError(f"{kind}: the answer is {found}, the net's own {wanted}")


def _answered(server: Server, request: bytes, *, tries: int = 50) -> tuple[Mapping[str, str], bytes]:
    """The first answer: a server with a time limit refuses while it is cold."""
    for _ in range(tries - 1):
        with contextlib.suppress(RuntimeError):
            return server.ask(request)
    return server.ask(request)


def _scores(headers: Mapping[str, str], body: bytes) -> np.ndarray:
    """The scores in any of the answers."""
    if length := headers.get("Inference-Header-Content-Length"):
        return np.frombuffer(body[int(length) :], np.float32)
    answer = json.loads(body)
    if isinstance(answer, dict):
        answer = answer["outputs"][0]["data"] if "outputs" in answer else answer.get("scores", answer.get("predictions"))
    return np.array(answer, np.float32).ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description="other servers, each in an environment of its own")
    parser.add_argument("--install", nargs="*", choices=PEERS, metavar="NAME", help=f"{', '.join(PEERS)} (default: all)")
    arguments = parser.parse_args()
    if arguments.install is not None:
        os.nice(10)
        for name in arguments.install or PEERS:
            print(f"installing {name}", flush=True)
            install(name)
    for name in PEERS:
        print(f"  {name:10} {versions(name) if installed(name) else 'not installed'}")


if __name__ == "__main__":
    main()
