"""What keys, the access log and traces cost a request: CPU of the server's process, with each of them and without.

    make bench-serve-watched
    python benchmarks/serve_watched.py --rounds 3 --seconds 1.5

One server a variant, all of the net of about 0.06 ms with tensors as bytes (as `cpu.binary` of serve_load.py), on one core; one at a time
is loaded, in rounds, so that what the machine does meanwhile meets all of them. `traced`: every request is, and a receiver of this
process takes the spans; `sampled`: one of a hundred is.
"""

from __future__ import annotations

import argparse
import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from common import ROOT, figure, finish
from serve_models import SIDE, net
from serve_rig import Server, binary_request, hasten, load

NAME = "serve-watched"
OUT = ROOT / "out" / "bench-serve-watched"
KEY = "a key that is drawn, not thought up"


class _Collector(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def variants(url: str) -> Mapping[str, tuple[tuple[str, ...], dict[str, str]]]:
    """By name: what `hasten serve` gets, and its environment."""
    keys, one_percent = OUT / "keys.toml", {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    keys.write_text(f'[alice]\nsha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\nrequests_per_second = 1e9\nburst = 1e9\n')
    return {
        "plain": ((), {}),
        "keys": (("--api-keys", str(keys)), {}),
        "log": (("--access-log", str(OUT / "access.log")), {}),
        "sampled": (("--traces", url), one_percent),
        "traced": (("--traces", url), {}),
    }


def cpu_ms(server: Server, request: bytes, seconds: float) -> float:
    """CPU milliseconds of one request at 16 connections."""
    before = server.cpu_seconds()
    samples = load(server, [request], keep=OUT / "last.npz", connections=16, seconds=seconds)
    assert samples.good.all(), np.unique(samples.status, return_counts=True)
    return 1e3 * (server.cpu_seconds() - before) / len(samples.good)


def main() -> None:
    parser = argparse.ArgumentParser(description="what keys, the access log and traces cost a request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one load (default: %(default)s)")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    bundle, tensor = net("tiny", OUT / "tiny"), np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    request = binary_request("tiny", "pixels", tensor, "scores").replace(b"Host:", f"X-API-Key: {KEY}\r\nHost:".encode(), 1)
    with ExitStack() as stack:
        url = stack.enter_context(collector())
        servers = {
            name: stack.enter_context(hasten(bundle, *options, environment=surroundings))
            for name, (options, surroundings) in variants(url).items()
        }
        for server in servers.values():
            cpu_ms(server, request, 0.5)
        taken = [{name: cpu_ms(server, request, arguments.seconds) for name, server in servers.items()} for _ in range(arguments.rounds)]
    figures = {}
    for name in servers:
        values = [one[name] for one in taken]
        figures[f"cpu.{name}_ms"] = figure(float(np.median(values)), min(values), max(values))
        more = [one[name] - one["plain"] for one in taken]
        if name != "plain":
            figures[f"cpu.{name}_over_plain_us"] = figure(1e3 * float(np.median(more)), 1e3 * min(more), 1e3 * max(more))
    finish(NAME, figures)


if __name__ == "__main__":
    main()
