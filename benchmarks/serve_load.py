"""What the server adds to the runtime, and how it keeps its promise under load.

    make bench-serve
    python benchmarks/serve_load.py --only cpu --seconds 5
    python benchmarks/serve_load.py --only goodput --minutes 5

The server runs on one core and the load on another, each pinned (`taskset`): on a machine of two cores they would otherwise take turns.
So all figures are those of ONE core, the runtime with one thread. The generator (serve_generator.py) is a process of its own that
counts latency from when a request was due; raw samples are kept in out/bench-serve. CPU is what the kernel counted for the server's
process, user and system, divided by the answers: it holds on a shared machine too, requests a second do not.

Sections: cpu (CPU of a request on a net of about 0.06 ms, 16 connections), throughput (saturation, over what the runtime alone does at its
best batch size, decoding added where pictures come in), batching (the rate that keeps the objective, with it and without), goodput
(within the objective, at multiples of the rate that was sustained), peers (cpu, of servers that are installed in out/serve-peers, see
serve_peers).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import serve_peers
from common import ROOT, Figures, figure, finish, known_figures, write
from serve_models import NETS, SIDE, finished, net, picture
from serve_rig import (
    SERVER_CORE,
    Samples,
    Server,
    base64_request,
    binary_request,
    hasten,
    json_request,
    least,
    load,
    post,
)

from hasten.bundle.read import Bundle

NAME = "serve-load"
OUT = ROOT / "out" / "bench-serve"
OBJECTIVE = 0.05
GOALS_MS = {"binary": 0.20, "json": 1.6, "base64": 0.6}
GOODPUT = {0.95: 0.98, 1.3: 0.70, 2.0: 0.45}
Named = Iterator[tuple[str, dict[str, object]]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundle under load. pictures: JPEG files come in, else tensors as bytes; share: the goal of its throughput, where it has one."""

    pictures: bool
    share: float | None


CASES = {
    "efficientnet-lite0": Case(pictures=True, share=0.85),
    "medium": Case(pictures=False, share=0.60),
    "wide": Case(pictures=False, share=None),
}


def bundle_of(name: str) -> Path | None:
    """The bundle: a net is made here, the others by main-models."""
    return net(name, OUT / name) if name in NETS else finished(name)


def chosen(arguments: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """The cases of a section."""
    return ((name, case) for name, case in CASES.items() if not arguments.models or name in arguments.models)


def tensor() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)


def requests_of(name: str, case: Case) -> list[bytes]:
    if case.pictures:
        return [post("/api/v1/classify", picture(k, 320), "image/jpeg") for k in range(8)]
    return [binary_request(name, "pixels", tensor(), "scores")]


# The runtime alone ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Alone:
    """What the runtime takes by itself on the server's core. seconds, cpu: of one call by its samples, call after call; decode: of one
    picture; now_and_then: seconds of a call of one sample, decoding included, 20 times a second: with cold caches, as a lone request."""

    seconds: dict[int, float]
    cpu: dict[int, float]
    decode: float
    now_and_then: float

    def best_rate(self) -> float:
        """Samples a second at the best batch size."""
        return max(size / seconds for size, seconds in self.seconds.items())

    def cpu_of(self, batch: float) -> float:
        """CPU seconds of a sample in calls of `batch`."""
        sizes = sorted(self.cpu)
        return float(np.interp(batch, sizes, [self.cpu[size] / size for size in sizes]))


def alone(path: Path, pictures: bool, seconds: float) -> Alone:
    """Measure it in this process, pinned to the server's core meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        with Bundle.open(path) as bundle:
            one = {name: array[:1] for name, array in bundle.load().golden.tensors.items()}
            wall, cpu = {}, {}
            for size in (2**k for k in range(7)):
                inputs = {name: np.repeat(array, size, axis=0) for name, array in one.items()}
                wall[size], cpu[size] = timed(lambda inputs=inputs: bundle.run(inputs), seconds / 7)
            encoded = picture(0, 320)
            decode = timed(lambda: bundle.prepare(encoded), 1.0)[0] if pictures else 0.0
            now_and_then = paced(lambda: bundle.run(bundle.prepare(encoded) if pictures else one))
    finally:
        os.sched_setaffinity(0, before)
    return Alone(seconds=wall, cpu=cpu, decode=decode, now_and_then=now_and_then)


def timed(call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Median wall seconds of a call and its mean CPU seconds."""
    call()
    walls: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    while len(walls) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        walls.append(time.perf_counter() - start)
    return float(np.median(walls)), (time.process_time() - cpu) / len(walls)


def paced(call: Callable[[], object], *, calls: int = 60, pause: float = 0.05) -> float:
    """Median wall seconds of a call after a pause."""
    walls = []
    for _ in range(calls):
        time.sleep(pause)
        start = time.perf_counter()
        call()
        walls.append(time.perf_counter() - start)
    return float(np.median(walls))


# Sections -------------------------------------------------------------------------------------------------------------


def cpu(arguments: argparse.Namespace) -> Named:
    """CPU of a request over the runtime's own, on the tiny net; metrics, validation and batching are on."""
    path = bundle_of("tiny")
    assert path is not None
    own = alone(path, False, 3.0)
    yield "cpu.runtime_ms", figure(1e3 * own.cpu[1])
    kinds = {
        "binary": binary_request("tiny", "pixels", tensor(), "scores"),
        "json": json_request("tiny", "pixels", tensor()),
        "base64": base64_request(picture(0, 96)),
    }
    with hasten(path, "--slo", "1s") as server:
        for kind, request in kinds.items():
            used, batch, samples = cpu_of_request(server, request, kind, arguments.seconds)
            over = 1e3 * (used - own.cpu_of(batch))
            yield f"cpu.{kind}.over_runtime_ms", figure(over, at_most=GOALS_MS[kind])
            yield f"cpu.{kind}.total_ms", figure(1e3 * used)
            yield f"cpu.{kind}.mean_batch", figure(batch)
            yield f"cpu.{kind}.answers_per_second", figure(samples.rate())
            yield f"cpu.{kind}.p99_ms", figure(1e3 * float(np.percentile(samples.latency, 99)))


def cpu_of_request(server: Server, request: bytes, kind: str, seconds: float) -> tuple[float, float, Samples]:
    """CPU seconds of one request, samples in a call, and the samples, at 16 connections."""
    load(server, [request], keep=OUT / "warm.npz", connections=16, seconds=1)
    before, counts = server.cpu_seconds(), server.metrics()
    samples = load(server, [request], keep=OUT / f"cpu-{kind}.npz", connections=16, seconds=seconds)
    used, after = server.cpu_seconds() - before, server.metrics()
    assert samples.good.all(), np.unique(samples.status, return_counts=True)
    sums = [after[f"hasten_batch_size_{part}"] - counts[f"hasten_batch_size_{part}"] for part in ("sum", "count")]
    return used / len(samples.good), sums[0] / sums[1], samples


def throughput(arguments: argparse.Namespace) -> Named:
    """Answers a second at saturation, as a share of what decoding and the runtime alone would do."""
    for name, case in chosen(arguments):
        path = bundle_of(name)
        if path is None:
            print(f"  skipped: no bundle of {name}: make bench-main-models")
            continue
        own, requests = alone(path, case.pictures, 5.0), requests_of(name, case)
        bound = 1 / (own.decode + 1 / own.best_rate())
        yield f"throughput.{name}.runtime_ms", figure(1e3 * own.seconds[1])
        yield f"throughput.{name}.runtime_best_per_second", figure(own.best_rate())
        yield f"throughput.{name}.decode_ms", figure(1e3 * own.decode)
        with hasten(path) as server:
            load(server, requests, keep=OUT / "warm.npz", connections=64, seconds=2)
            before = server.cpu_seconds()
            samples = load(server, requests, keep=OUT / f"saturated-{name}.npz", connections=64, seconds=arguments.seconds)
            yield f"throughput.{name}.cores_used", figure((server.cpu_seconds() - before) / float(samples.ended.max()))
        yield f"throughput.{name}.answered", figure(float(samples.good.mean()), at_least=1.0)
        yield f"throughput.{name}.answers_per_second", figure(samples.rate())
        yield f"throughput.{name}.of_the_bound", figure(samples.rate() / bound, at_least=case.share)


def batching(arguments: argparse.Namespace) -> Named:
    """The rate that is sustained within the objective, over the same where every call holds one sample."""
    for name, case in chosen(arguments):
        path = bundle_of(name)
        if path is None:
            continue
        rates, requests = {}, requests_of(name, case)
        own = alone(path, case.pictures, 3.0)
        for on in (True, False):
            with hasten(path, "--slo", "50ms", batching=on) as server:
                load(server, requests, keep=OUT / "warm.npz", connections=2, seconds=2)
                rates[on] = sustained_rate(server, requests, f"{name}-{on}")
        yield f"batching.{name}.sustained_per_second", figure(rates[True])
        yield f"batching.{name}.sustained_without", figure(rates[False])
        yield f"batching.{name}.gain", figure(rates[True] / rates[False], at_least=6.0 if name == "wide" else None)
        yield f"batching.{name}.gain_of_the_runtime_alone", figure(own.best_rate() * own.seconds[1])


def goodput(arguments: argparse.Namespace) -> Named:
    """Answers in time, by how much is offered; a lone request; memory; recovery."""
    for name, case in chosen(arguments):
        path = bundle_of(name)
        if path is None:
            continue
        own, requests = alone(path, case.pictures, 2.0), requests_of(name, case)
        with hasten(path, "--slo", "50ms") as server:
            took, floor, null = lone(path, server, requests, name)
            yield f"goodput.{name}.lone_request_ms", figure(1e3 * took)
            yield f"goodput.{name}.lone_request_over_runtime_ms", figure(1e3 * (took - own.now_and_then), at_most=1.0)
            yield f"goodput.{name}.lone_request_over_floor_ms", figure(1e3 * (took - floor))
            yield f"goodput.{name}.lone_request_to_a_server_that_does_nothing_ms", figure(1e3 * null)
            yield f"goodput.{name}.lone_request_over_warm_runtime_ms", figure(1e3 * (took - own.seconds[1] - own.decode))
            load(server, requests, keep=OUT / "warm.npz", connections=4, seconds=3)
            sustained = sustained_rate(server, requests, name)
            yield f"goodput.{name}.sustained_per_second", figure(sustained)
            memory = server.memory_bytes()
            for factor, goal in GOODPUT.items():
                phases = f"{factor * sustained}:{60 * arguments.minutes},{0.3 * sustained}:5"
                keep = OUT / f"goodput-{name}-{factor}.npz"
                samples = load(server, requests, keep=keep, connections=arguments.connections, phases=phases)
                yield f"goodput.{name}.at_{factor}x", figure(samples.goodput(0, OBJECTIVE), at_least=goal)
                yield f"goodput.{name}.no_answer_at_{factor}x", figure(int((samples.status == 0).sum()), at_most=0)
                yield f"goodput.{name}.recovery_seconds_after_{factor}x", figure(recovery(samples, OBJECTIVE), at_most=1.0)
            yield f"goodput.{name}.memory_growth_mb", figure((server.memory_bytes() - memory) / 1e6)


def lone(path: Path, server: Server, requests: list[bytes], name: str, *, rounds: int = 3) -> tuple[float, float, float]:
    """Median seconds of a request that comes alone, 20 a second: to hasten, to the least that a server can do, and to one that does
    nothing, in turn. The last is what the generator and the sockets take, which every server pays."""
    with least(path) as floor, least(path, "--null") as null:
        servers, seconds = {"": server, "-floor": floor, "-null": null}, dict[str, list[float]]()
        for _ in range(rounds):
            for kind, one in servers.items():
                samples = load(one, requests, keep=OUT / f"lone-{name}{kind}.npz", connections=1, phases="20:2")
                seconds.setdefault(kind, []).extend(samples.latency)
    medians = {kind: float(np.median(of)) for kind, of in seconds.items()}
    return medians[""], medians["-floor"], medians["-null"]


def sustained_rate(server: Server, requests: list[bytes], name: str) -> float:
    """The highest rate at which connections that ask again and again are all answered in time."""
    rates = [0.0]
    for connections in (2, 4, 8, 16, 32, 64):
        samples = load(server, requests, keep=OUT / f"sustained-{name}-{connections}.npz", connections=connections, seconds=4)
        if samples.goodput(0, OBJECTIVE) < 0.99:
            break
        rates.append(samples.rate())
    return max(rates)


def recovery(samples: Samples, objective: float) -> float:
    """Seconds from the end of the load until every request is answered in time."""
    calm = samples.phase == 1
    missed = samples.due[calm & ~(samples.good & (samples.latency <= objective))]
    return float(missed.max() - samples.due[calm].min()) if len(missed) else 0.0


def peers(arguments: argparse.Namespace) -> Named:
    """CPU of a request of other servers, with the same net, the runtime's part included."""
    net("tiny", OUT / "tiny")
    for name, peer in serve_peers.PEERS.items():
        if (arguments.models and name not in arguments.models) or not serve_peers.installed(name):
            continue
        try:
            with serve_peers.running(name, OUT / "tiny.onnx") as server:
                for kind, request in peer.requests(tensor(), picture(0, 96)).items():
                    load(server, [request], keep=OUT / "warm.npz", connections=16, seconds=2)
                    before = server.cpu_seconds()
                    samples = load(server, [request], keep=OUT / f"{name}-{kind}.npz", connections=16, seconds=arguments.seconds)
                    if not samples.good.all():
                        print(f"  {name}, {kind}: statuses {np.unique(samples.status, return_counts=True)}")
                        continue
                    yield f"peers.{name}.{kind}.total_ms", figure(1e3 * (server.cpu_seconds() - before) / len(samples.good))
                    yield f"peers.{name}.{kind}.answers_per_second", figure(samples.rate())
        except RuntimeError as error:
            print(f"  {name}: {error}")


SECTIONS: dict[str, Callable[[argparse.Namespace], Named]] = {
    "cpu": cpu,
    "throughput": throughput,
    "batching": batching,
    "goodput": goodput,
    "peers": peers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="what the server adds to the runtime, and how it keeps its promise")
    parser.add_argument("--only", choices=SECTIONS, nargs="*", help="sections (default: all)")
    parser.add_argument("--models", nargs="*", metavar="NAME", help="models, or peers (default: all)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one load at saturation (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1.0, help="of one load of goodput (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=512, help="of goodput (default: %(default)s)")
    arguments = parser.parse_args()
    figures: Figures = known_figures(NAME) if arguments.only else {}
    for section in arguments.only or SECTIONS:
        for key, one in SECTIONS[section](arguments):
            figures[key] = one
            print(f"  {key}: {one['value']}", flush=True)
        write(NAME, figures)
    finish(NAME, figures)


if __name__ == "__main__":
    main()
