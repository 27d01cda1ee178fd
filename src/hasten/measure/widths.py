"""Times layers of every width in one runtime: small graphs, each the same layer twice and eight times, side by side.

What eight take more than two, by six (for large layers: three more than one, by two), is one layer: calls, entering, leaving and
reordering cancel. The layers' outputs are added up, as in residual networks, so that none can be left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.candidate import Candidate, Floor, Step
from ..core.need import need
from ..core.seams import Runtime, Target
from ..core.signature import Signature, TensorSpec
from ..core.widths import Curves, Site, WidthTable
from . import cores
from .worker import State, Worker

_FEW, _MANY = 2, 8
_LARGE = 1 << 20  # weights of a layer from which on one and three of it do: all graphs are in memory at once
_ROUNDS = 12
_PLACE_SECONDS = 3.0  # no new round after it
_SLICE_SECONDS = 0.0015
_STEP = 8  # between the widths that are measured, at least; narrower than 32 half of it
_WIDTHS = 24  # that are measured beyond 32, about
_PATIENCE_SECONDS = 60.0  # for cores that are shared just now: a table that was taken beside other work chose worse than no table


def measure_widths(runtime: Runtime, target: Target, sites: Sequence[Site], *, where: Mapping[str, Any]) -> WidthTable:
    """The table of all places in `sites`, each up to the widest that stands there; `where` says the worst `slowdown` of the cores
    (`cores.settled`). Raises WorkerError, NotPossibleHere."""
    curves, worst, patience, threads = {}, 1.0, _PATIENCE_SECONDS, runtime.num_threads(target)
    with Worker(f"widths {runtime.name}", threads=threads) as worker:
        for site in widest(sites):
            began = time.perf_counter()
            worst = max(worst, cores.settled(threads, patience))
            patience = max(0.0, patience - (time.perf_counter() - began))
            curves[site.key] = worker.call(_curve, runtime, replace(target, batch_size=1), site)
    return WidthTable(curves=curves, where={**where, "runtime": runtime.step().to_json(), "slowdown": round(worst, 3)})


def widest(sites: Iterable[Site]) -> list[Site]:
    """One site a place, as wide as the widest that stands there."""
    found: dict[str, Site] = {}
    for site in sites:
        known = found.get(site.key, site)
        found[site.key] = replace(site, num_in=max(site.num_in, known.num_in), num_out=max(site.num_out, known.num_out))
    return list(found.values())


def widths_to(most: int) -> list[int]:
    """The widths that are measured up to `most`."""
    fine = range(_STEP // 2, min(most, 4 * _STEP), _STEP // 2)
    step = _STEP * max(1, round(most / (_STEP * _WIDTHS)))
    return [*fine, *range(4 * _STEP, most, step), most]


@dataclass(kw_only=True)
class _Pair:
    """The same layer, few and many, ready to be called. more: how many more the many are."""

    few: Callable[[], object]
    many: Callable[[], object]
    more: int
    seconds: list[float]


def _curve(state: State, runtime: Runtime, target: Target, site: Site) -> Curves:
    """One place's lines; all its widths in turn, so that a slow moment hits them alike."""
    outs = widths_to(site.num_out)
    ins = outs if site.depthwise else widths_to(site.num_in)
    along = [replace(site, num_out=w, num_in=w if site.depthwise else site.num_in) for w in outs]
    across = [] if site.depthwise else [replace(site, num_in=w) for w in ins]
    with tempfile.TemporaryDirectory(prefix="hasten-widths-") as scratch:
        pairs = [_pair(runtime, target, one, Path(scratch) / str(n)) for n, one in enumerate([*along, *across])]
        began = time.perf_counter()
        for number in range(_ROUNDS):
            if number >= 3 and time.perf_counter() - began > _PLACE_SECONDS:
                break
            for pair in pairs:
                pair.seconds.append((_best(pair.many) - _best(pair.few)) / pair.more)
    seconds = [max(1e-8, float(np.median(pair.seconds))) for pair in pairs]
    out_line = tuple(seconds[: len(outs)])
    in_line = tuple(seconds[len(outs) :]) or out_line
    return Curves(widths_in=tuple(ins), seconds_in=in_line, widths_out=tuple(outs), seconds_out=out_line)


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of the calls within a slice, at least three."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < _SLICE_SECONDS:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def _pair(runtime: Runtime, target: Target, site: Site, folder: Path) -> _Pair:
    counts = (1, 3) if site.parameters > _LARGE else (_FEW, _MANY)
    few, many = (_load(runtime, target, site, count, folder / str(count)) for count in counts)
    return _Pair(few=few, many=many, more=counts[1] - counts[0], seconds=[])


def _load(runtime: Runtime, target: Target, site: Site, count: int, folder: Path) -> Callable[[], object]:
    onnx = need("onnx", why="to measure layers of every width")
    graph, program = folder / "graph", folder / "program"
    graph.mkdir(parents=True)
    program.mkdir()
    model, x_shape, y_shape = _model(onnx, site, count)
    onnx.save(model, str(graph / "model.onnx"))
    specs = [(TensorSpec(name=name, dtype="float32", shape=shape),) for name, shape in (("x", x_shape), ("y", y_shape))]
    step = Step(name="widths", options={"site": site.key, "in": site.num_in, "out": site.num_out, "count": count})
    candidate = Candidate(
        floor=Floor.GRAPH, path=graph / "model.onnx", signature=Signature(inputs=specs[0], outputs=specs[1]), lineage=(step,)
    )
    runtime.compile(candidate, target, program)
    loaded = runtime.load(program, target)
    x = np.random.default_rng(0).random(x_shape, np.float32)
    return lambda: loaded.run({"x": x})


def _model(onnx: Any, site: Site, count: int) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """x -> a layer that makes the site's input of 8 channels -> `count` times the site, added up -> mean over the picture."""
    make, rng = onnx.helper.make_node, np.random.default_rng(0)
    lead = (8, site.size[0] * site.size[1]) if site.linear else (8, *site.size)
    x_shape = (1, site.size[0], 8) if site.linear else (1, *lead)
    weights: dict[str, np.ndarray] = {}
    nodes = []
    if site.linear:
        weights["w"] = _random(rng, (8, site.num_in))
        nodes.append(make("MatMul", ["x", "w"], ["h"]))
    else:
        weights["w"] = _random(rng, (site.num_in, 8, 1, 1))
        nodes.append(make("Conv", ["x", "w"], ["h"]))
    total = ""
    for number in range(count):
        name, last = f"l{number}", f"s{number}"
        nodes.append(_layer(make, weights, rng, site, number, name))
        total = name if not total else last
        if number:
            nodes.append(make("Add", [f"s{number - 1}" if number > 1 else "l0", name], [last]))
    nodes.append(make("Relu", [total], ["r"]))
    if site.linear:
        nodes.append(make("Identity", ["r"], ["y"]))
        y_shape: tuple[int, ...] = (1, site.size[0], site.num_out)
    else:
        nodes.append(make("GlobalAveragePool", ["r"], ["y"]))
        y_shape = (1, site.num_out, 1, 1)
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", x_shape), ("y", y_shape)))
    graph = onnx.helper.make_graph(nodes, "widths", [x], [y], [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), x_shape, y_shape


def _layer(make: Callable[..., Any], weights: dict[str, np.ndarray], rng: np.random.Generator, site: Site, number: int, name: str) -> Any:
    weight, bias = f"w{number}", f"b{number}"
    if site.linear:
        weights[weight] = _random(rng, (site.num_in, site.num_out))
        return make("MatMul", ["h", weight], [name])
    weights[weight] = _random(rng, (site.num_out, 1 if site.depthwise else site.num_in, *site.kernel))
    weights[bias] = np.zeros(site.num_out, np.float32)
    pads = [k // 2 for k in site.kernel]
    return make(
        "Conv", ["h", weight, bias], [name], strides=list(site.stride), pads=[*pads, *pads],
        group=site.num_out if site.depthwise else 1, kernel_shape=list(site.kernel),
    )  # fmt: skip


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
