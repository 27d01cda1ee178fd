"""What the server adds to the runtime, and how it keeps its promise under load.

    make bench-serve
    python benchmarks/serve_load.py --only cpu --seconds 5
    python benchmarks/serve_load.py --only goodput --minutes 5 --models medium --multiples 1.3
    python benchmarks/serve_load.py --only peers-goodput --seconds 15 --models triton mosec

The server runs on one core and the load on another, each pinned (`taskset`): on a machine of two cores they would otherwise take turns.
So all figures are those of ONE core, the runtime with one thread. The generator (serve_generator.py) is a process of its own that
counts latency from when a request was due; raw samples are kept in out/bench-serve. CPU is what the kernel counted for the server's
process, user and system, divided by the answers: it holds on a shared machine too, requests a second do not.

Sections: cpu (CPU of a request on a net of about 0.06 ms, 16 connections), throughput (saturation, over what the runtime alone does at its
best batch size, decoding added where pictures come in), batching (the rate that keeps the objective, with it and without), lone (a
request that comes alone), goodput (within the objective, at multiples of the rate that was sustained; memory; recovery), peers (cpu, of
servers that are installed in out/serve-peers, see serve_peers) and peers-goodput (goodput of those, at multiples of what each of them
sustains: NAME as it is, and where it has such settings NAME-limit with the objective as its time limit, NAME-line with a short line).

Sections, models, peers and multiples can be run one at a time: what is measured takes the place of figures of the same names in
benchmarks/results/serve-load.json and leaves the others. Each figure has the date and the machine of its run, and `seconds`, how long
its load was, where that is asked for.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import serve_peers
from common import ROOT, Figures, figure, finish, merged, write
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
    watched,
)

from hasten.bundle.read import Bundle

NAME = "serve-load"
OUT = ROOT / "out" / "bench-serve"
OBJECTIVE = 0.05
GOALS_MS = {"binary": 0.20, "json": 1.6, "base64": 0.6}
GOODPUT = {0.95: 0.98, 1.3: 0.70, 2.0: 0.45}
"""By what is offered, over what is sustained: the share that should be answered in time."""
FLAT = 0.02
"""By how much of itself memory may grow between the second and the last fifth of a load."""
CALM_SECONDS = 5.0
TOLD = ("", "-limit", "-line")
"""What another server is told of the objective: nothing; its time limit is the objective; and only so many may wait."""
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


def present(arguments: argparse.Namespace) -> Iterator[tuple[str, Case, Path]]:
    """The chosen bundles that are there; the others are told."""
    for name, case in chosen(arguments):
        if (path := bundle_of(name)) is None:
            print(f"  skipped: no bundle of {name}: make bench-main-models")
        else:
            yield name, case, path


def throughput(arguments: argparse.Namespace) -> Named:
    """Answers a second at saturation, as a share of what decoding and the runtime alone would do."""
    for name, case, path in present(arguments):
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
    for name, case, path in present(arguments):
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


def lone(arguments: argparse.Namespace) -> Named:
    """A request that comes alone. The keys are those of goodput, whose part this was."""
    for name, case, path in present(arguments):
        own, requests = alone(path, case.pictures, 2.0), requests_of(name, case)
        with hasten(path, "--slo", "50ms") as server:
            took, floor, null = now_and_then(path, server, requests, name)
        yield f"goodput.{name}.lone_request_ms", figure(1e3 * took)
        yield f"goodput.{name}.lone_request_over_runtime_ms", figure(1e3 * (took - own.now_and_then), at_most=1.0)
        yield f"goodput.{name}.lone_request_over_floor_ms", figure(1e3 * (took - floor))
        yield f"goodput.{name}.lone_request_to_a_server_that_does_nothing_ms", figure(1e3 * null)
        yield f"goodput.{name}.lone_request_over_warm_runtime_ms", figure(1e3 * (took - own.seconds[1] - own.decode))


def goodput(arguments: argparse.Namespace) -> Named:
    """Answers in time, by how much is offered; memory; recovery."""
    for name, case, path in present(arguments):
        with hasten(path, "--slo", "50ms") as server:
            requests, seconds = requests_of(name, case), 60 * arguments.minutes
            for key, one in overloads(server, requests, name, sustains(server, requests, name), seconds, arguments, goals=True):
                yield f"goodput.{name}.{key}", one


def sustains(server: Server, requests: list[bytes], name: str) -> float:
    """sustained_rate of a server that has just been started."""
    load(server, requests, keep=OUT / "warm.npz", connections=4, seconds=3)
    return sustained_rate(server, requests, name)


def overloads(
    server: Server, requests: list[bytes], name: str, sustained: float, seconds: float, arguments: argparse.Namespace, *, goals: bool,
) -> Named:  # fmt: skip
    """What a server does at multiples of the rate that it sustains. seconds: of each load; goals: whether hasten's are its own."""
    yield "sustained_per_second", figure(sustained)
    for factor in arguments.multiples or GOODPUT if sustained else ():
        load(server, requests, keep=OUT / "warm.npz", connections=4, seconds=2)  # after it nothing is left of the load before
        phases, keep = f"{factor * sustained}:{seconds},{0.3 * sustained}:{CALM_SECONDS}", OUT / f"goodput-{name}-{factor}.npz"
        with watched(server, min(seconds / 50, 2.0)) as memory:
            samples = load(server, requests, keep=keep, connections=arguments.connections, phases=phases)
        asked = samples.phase == 0
        late, silent = samples.good & (samples.latency > OBJECTIVE), samples.status == 0
        found = {
            "offered_per_second": figure(factor * sustained),
            "": figure(samples.goodput(0, OBJECTIVE), at_least=GOODPUT.get(factor) if goals else None),
            "late": figure(float(late[asked].mean())),
            "no_answer": figure(int(silent.sum()), at_most=0 if goals else None),
            "recovery_seconds_after": figure(recovery(samples, OBJECTIVE), at_most=1.0 if goals else None),
            "memory_mb": figure(max(size for _, size in memory) / 1e6),
            "memory_growth": figure(growth([size for at, size in memory if at <= seconds]), at_most=FLAT if goals else None),
        }
        for key, one in found.items():
            yield f"{key}{'_' if key else ''}{'' if key.endswith('after') else 'at_'}{factor}x", {**one, "seconds": seconds}


def growth(memory: Sequence[int]) -> float:
    """By how much of itself it grew between the second fifth, when what is kept for later is there, and the last."""
    fifth = len(memory) // 5
    early, late = np.median(memory[fifth : 2 * fifth]), np.median(memory[-fifth:])
    return float(late / early - 1)


def now_and_then(path: Path, server: Server, requests: list[bytes], name: str, *, rounds: int = 3) -> tuple[float, float, float]:
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
    for name in serve_peers.PEERS:
        if wanted(name, name, arguments):
            yield from unless_it_fails(name, cpu_of_peer(name, arguments.seconds))


def cpu_of_peer(name: str, seconds: float) -> Named:
    with peer(name, "tiny") as (server, requests):
        yield f"peers.{name}.versions", figure(serve_peers.versions(name))
        for kind, request in requests.items():
            load(server, [request], keep=OUT / "warm.npz", connections=16, seconds=2)
            before = server.cpu_seconds()
            samples = load(server, [request], keep=OUT / f"{name}-{kind}.npz", connections=16, seconds=seconds)
            used = server.cpu_seconds() - before
            if not samples.good.all():
                print(f"  {name}, {kind}: statuses {np.unique(samples.status, return_counts=True)}")
                continue
            yield f"peers.{name}.{kind}.total_ms", {**figure(1e3 * used / len(samples.good)), "seconds": seconds}
            yield f"peers.{name}.{kind}.answers_per_second", {**figure(samples.rate()), "seconds": seconds}


def peers_goodput(arguments: argparse.Namespace) -> Named:
    """goodput of other servers, with tensors as bytes, or as JSON where they know no bytes."""
    net("medium", OUT / "medium")
    for name, one in serve_peers.PEERS.items():
        for told in TOLD if one.limited else TOLD[:1]:
            if wanted(name, name + told, arguments):
                yield from unless_it_fails(name, goodput_of_peer(name, told, arguments))


def goodput_of_peer(name: str, told: str, arguments: argparse.Namespace) -> Named:
    """What it is offered are multiples of what it sustains when it is told nothing of the objective. A short line is a third of what it
    answers within the objective then, so that a line and the call before it take two thirds of that."""
    label = name + told
    yield f"peers-goodput.{label}.versions", figure(serve_peers.versions(name))
    with peer(name, "medium", kinds=1) as (server, requests):
        kind, request = next(iter(requests.items()))
        sustained = sustains(server, [request], name)
        if not told:
            for key, one in overloads(server, [request], label, sustained, arguments.seconds, arguments, goals=False):
                yield f"peers-goodput.{label}.{key}", one
    yield f"peers-goodput.{label}.kind", figure(kind)
    if told:
        limits = serve_peers.Limits(seconds=OBJECTIVE, places=max(1, int(sustained * OBJECTIVE / 3)) if told == TOLD[-1] else None)
        with peer(name, "medium", limits, kinds=1) as (server, _):
            for key, one in overloads(server, [request], label, sustained, arguments.seconds, arguments, goals=False):
                yield f"peers-goodput.{label}.{key}", one


def wanted(name: str, label: str, arguments: argparse.Namespace) -> bool:
    return serve_peers.installed(name) and (not arguments.models or label in arguments.models)


def unless_it_fails(name: str, figures: Named) -> Named:
    """A server that does not start, or answers wrongly, is told of and left out."""
    try:
        yield from figures
    except RuntimeError as error:
        print(f"  {name}: {error}")


@contextmanager
def peer(
    name: str, model: str, limits: serve_peers.Limits | None = None, *, kinds: int | None = None
) -> Iterator[tuple[Server, Mapping[str, bytes]]]:  # fmt: skip
    """Another server with a net, and requests, by kind, that get the net's own scores. kinds: how many of them (default: all)."""
    path, x, image = OUT / f"{model}.onnx", tensor(), picture(0, 96)
    requests = dict(list(serve_peers.PEERS[name].requests(model, x, image).items())[:kinds])
    with serve_peers.running(name, path, limits) as server:
        serve_peers.check(server, requests, path, x, image)
        yield server, requests


SECTIONS: dict[str, Callable[[argparse.Namespace], Named]] = {
    "cpu": cpu,
    "throughput": throughput,
    "batching": batching,
    "lone": lone,
    "goodput": goodput,
    "peers": peers,
    "peers-goodput": peers_goodput,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="what the server adds to the runtime, and how it keeps its promise")
    parser.add_argument("--only", choices=SECTIONS, nargs="*", help="sections (default: all)")
    parser.add_argument("--models", nargs="*", metavar="NAME", help="models, or peers (default: all)")
    parser.add_argument("--multiples", nargs="*", type=float, metavar="X", help="of what is sustained (default: 0.95 1.3 2)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one load at saturation, or of peers-goodput (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1.0, help="of one load of goodput (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=512, help="of goodput (default: %(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and generators are ended on the way out
    figures: Figures = {}
    for section in arguments.only or SECTIONS:
        for key, one in SECTIONS[section](arguments):
            figures[key] = one
            print(f"  {key}: {one['value']}", flush=True)
        write(NAME, merged(NAME, figures))
    finish(NAME, merged(NAME, figures))


if __name__ == "__main__":
    main()
