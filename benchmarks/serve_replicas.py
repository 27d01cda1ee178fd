"""What replicas bring and what they cost: one program in the server's process, in another one, and two of them, of one thread each.

    make bench-serve
    python benchmarks/serve_replicas.py --seconds 4

The server may use two cores, and so may the load, which takes little of them: tensors come as bytes, ready to be computed. What the way
through shared memory costs is told by the CPU that the kernel counts for all processes of the server, of one replica over none: of a
request that is alone (one connection), and at saturation, where those that share a call share it too. For a sample of 49 kB on the net
of 0.06 ms, and for one of 602 kB.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import ROOT, Figures, figure, finish
from serve_models import finished, net
from serve_rig import CORES, Server, binary_request, hasten, load

from hasten.bundle.layout import MANIFEST
from hasten.bundle.manifest import read_manifest
from hasten.bundle.read import Bundle

NAME = "serve-replicas"
OUT = ROOT / "out" / "bench-serve"
MODEL = "efficientnet-lite0"
WAYS: dict[str, tuple[str, ...]] = {"here": (), "one": ("--isolate",), "two": ("--replicas", "2")}
CONNECTIONS = {"tiny": 16, "large": 32}
GAIN = 1.5
"""Answers a second of two replicas over one, on two cores that load and connections share with them."""
IDLE_SHARE = 0.005
Named = Iterator[tuple[str, dict[str, object]]]


def of_one_thread(source: Path, folder: Path) -> Path:
    """The bundle `source`, whose program takes one thread, as `folder`. The times of its certificate, of more threads, do not count."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    manifest = read_manifest(folder)
    target = manifest.target.model_copy(update={"threads": 1})
    changed = manifest.model_copy(update={"target": target, "machine": {**manifest.machine, "id": "with more threads"}})
    (folder / MANIFEST).write_text(changed.text(), encoding="utf8")
    return folder


def request(path: Path) -> bytes:
    """One sample of the bundle's golden examples."""
    with Bundle.open(path) as bundle:
        spec, output = bundle.signature.inputs[0].name, bundle.signature.outputs[0].name
        return binary_request(bundle.name, spec, bundle.golden.tensors[spec][:1], output)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Answers a second, CPU seconds of one, samples in a call."""

    rate: float
    cpu: float
    batch: float


def under(server: Server, one: bytes, name: str, connections: int, seconds: float) -> Seen:
    """Connections that ask again and again. Every request must be answered."""
    load(server, [one], keep=OUT / "warm.npz", connections=connections, seconds=0.5)
    cpu, before = server.cpu_seconds(), server.metrics()
    samples = load(server, [one], keep=OUT / f"replicas-{name}.npz", connections=connections, seconds=seconds)
    used, after = server.cpu_seconds() - cpu, server.metrics()
    assert samples.good.all(), np.unique(samples.status, return_counts=True)
    batches = [after[f"hasten_batch_size_{part}"] - before[f"hasten_batch_size_{part}"] for part in ("sum", "count")]
    return Seen(rate=samples.rate(), cpu=used / len(samples.good), batch=batches[0] / batches[1])


def measured(label: str, path: Path, ways: Sequence[str], seconds: float) -> Named:
    """One model on several ways."""
    one, lone, many = request(path), dict[str, Seen](), dict[str, Seen]()
    for way in ways:
        with hasten(path, *WAYS[way], cores=CORES[:2]) as server:
            if way == "two":
                yield f"{label}.{way}.idle_share_of_a_core", figure(idle(server), at_most=IDLE_SHARE)
            lone[way] = under(server, one, f"{label}-{way}-lone", 1, seconds / 2)
            many[way] = under(server, one, f"{label}-{way}", CONNECTIONS[label], seconds)
        yield f"{label}.{way}.lone_cpu_ms", figure(1e3 * lone[way].cpu)
        yield f"{label}.{way}.cpu_ms", figure(1e3 * many[way].cpu)
        yield f"{label}.{way}.mean_batch", figure(many[way].batch)
        yield f"{label}.{way}.answers_per_second", figure(many[way].rate)
    yield f"{label}.hop_of_a_lone_request_ms", figure(1e3 * (lone["one"].cpu - lone["here"].cpu))
    yield f"{label}.hop_at_saturation_ms", figure(1e3 * (many["one"].cpu - many["here"].cpu))
    if "two" in many:
        yield f"{label}.two_over_here", figure(many["two"].rate / many["here"].rate, at_least=GAIN)


def idle(server: Server, seconds: float = 5.0) -> float:
    """The share of a core that a server with its replicas uses while nobody asks, from the scheduler's own count in nanoseconds."""

    def used() -> float:
        family = (server.process, *server.process.children(recursive=True))
        files = (file for one in family for file in Path(f"/proc/{one.pid}/task").glob("*/schedstat"))
        return 1e-9 * sum(int(file.read_text().split()[0]) for file in files)

    time.sleep(1.0)  # what comes after the start
    before, began = used(), time.perf_counter()
    time.sleep(seconds)
    return (used() - before) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description="what replicas bring and what they cost")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one load (default: %(default)s)")
    arguments = parser.parse_args()
    figures: Figures = {}
    cases = {"tiny": (net("tiny", OUT / "tiny"), ("here", "one"))}
    if (large := finished(MODEL)) is not None:
        cases["large"] = of_one_thread(large, OUT / "one-thread"), tuple(WAYS)
    else:
        print(f"  skipped: no bundle of {MODEL}: make bench-main-models")
    for label, (path, ways) in cases.items():
        for key, one in measured(label, path, ways, arguments.seconds):
            figures[key] = one
            print(f"  {key}: {one['value']}", flush=True)
    finish(NAME, figures)


if __name__ == "__main__":
    main()
