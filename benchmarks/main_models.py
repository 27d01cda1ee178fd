"""`hasten optimize` on real models: how much faster, at what loss, how sure, and what it cost.

    make bench-main-models
    HASTEN_DATA=/path/to/data python benchmarks/main_models.py --only resnet20 mobilenetv2

Each model starts with an empty store. Results are written after each model, so that a stopped run loses nothing; the bundles stay in
out/bench. A model whose inputs are not here is skipped with a sentence. About an hour for all on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import BUNDLES, HERE, ROOT, Figures, Run, evidence, figure, finish, known_figures, optimize, prepare, told, write
from fetch import FetchError, fetch

from hasten.core.measurement import Interval
from hasten.measure.statistics import ratio_interval

NAME = "main-models"
USEFUL = ("export", "build", "compile", "timing", "quality")
"""What the search is for: export, quantisation, compilation, timing, quality evaluation."""
MEASURING = ("memory", "count")
"""Measuring too, but of memory and FLOPs: `overhead_share` leaves it out, `overhead_share_strict` counts it as overhead."""
OPENING = ("open", "data", "profile")
"""Making the original ready and asking the model where its time goes: done for the candidates, so `own_share` leaves it out."""


@dataclass(frozen=True)
class Case:
    """One model. source: job file or ONNX file; brings: what benchmarks/fetch.py must bring; data_file: needed under
    $HASTEN_DATA; goals: figure -> keyword and value of its goal."""

    source: str
    budget: str
    brings: str | None = None
    data_file: str | None = None
    goals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


SEARCH_GOALS = {"wall_seconds": {"at_most": 600.0}, "overhead_share": {"at_most": 0.15}, "overhead_share_strict": {"at_most": 0.15}}
CIFAR = "cifar10-jpeg-test.parquet"
CASES = {
    "digits": Case("examples/digits/job.toml", "2m"),
    "fashion-mnist": Case("examples/fashion_mnist/job.toml", "3m", brings="fashion_mnist"),
    "resnet20": Case(
        "examples/cifar10/resnet20.toml", "4m", data_file=CIFAR,
        goals={**SEARCH_GOALS, "over_lossless": {"at_least": 1.25}, "drop_points": {"at_most": 0.5}},
    ),
    "mobilenetv2": Case(
        "examples/cifar10/mobilenetv2.toml", "5m", data_file=CIFAR,
        goals={**SEARCH_GOALS, "over_lossless": {"at_least": 1.5}, "drop_points": {"at_most": 0.5}},
    ),
    "efficientnet-lite0": Case(
        "examples/efficientnet_lite0/job.toml", "4m", brings="efficientnet_lite0", data_file="imagenet-pictures.parquet",
        goals={"int8.over_start": {"at_least": 8.0}, "int8.over_lossless": {"at_least": 1.7}},
    ),
    "minilm-probe": Case(
        "examples/minilm/probe.toml", "4m", brings="minilm",
        goals={"over_lossless": {"at_least": 1.7}, "drop_points": {"at_most": 1.0}},
    ),
    "minilm-cosine": Case("examples/minilm/embedding.toml", "3m", brings="minilm"),
    "magika": Case("benchmarks/inputs/magika/model.onnx", "2m", brings="magika"),
    "text-angle": Case("benchmarks/inputs/text_angle/model.onnx", "2m", brings="text_angle"),
    "basic-pitch": Case("benchmarks/inputs/basic_pitch/model.onnx", "3m", brings="basic_pitch"),
}  # fmt: skip


def why_skipped(case: Case) -> str | None:
    """Brings what the model needs. Returns one sentence where that cannot be had."""
    if case.data_file is not None:
        folder = os.environ.get("HASTEN_DATA")
        if folder is None or not (Path(folder).expanduser() / case.data_file).exists():
            return f"HASTEN_DATA must name the folder that holds {case.data_file}"
    try:
        if case.brings == "fashion_mnist" and Path("/usr/share/datasets/fashion-mnist").exists():
            return None
        if case.brings is not None:
            fetch(case.brings, HERE / "inputs")
        prepare(case.source)
    except (FetchError, OSError, subprocess.CalledProcessError) as error:
        return str(error)
    return None


def run(name: str, case: Case, *, budget: str, keep_store: bool) -> Run:
    """The command that a user gives."""
    store, bundle = BUNDLES / "stores" / name, BUNDLES / name
    if not keep_store:
        shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(bundle, ignore_errors=True)
    store.mkdir(parents=True, exist_ok=True)
    arguments = [case.source, "--out", str(bundle.relative_to(ROOT)), "--budget", budget, "--threads", "2"]
    if case.source.endswith(".onnx"):
        arguments += ["--data", str(Path(case.source).with_name("data.npz")), "--max-drop", "0.5"]
    return optimize(*arguments, store=store)


def measure(case: Case, done: Run, bundle: Path) -> Figures:
    """The figures of one run, by their names within the model."""
    document = done.document
    assert document is not None
    account = document["account_seconds"]
    useful, measuring, opening = (sum(account.get(key, 0.0) for key in keys) for keys in (USEFUL, MEASURING, OPENING))
    figures: Figures = {
        "verdict": figure(document["verdict"]),
        "wall_seconds": _with_goal(case, "wall_seconds", done.wall_seconds),
        "overhead_share": _with_goal(case, "overhead_share", 1 - (useful + measuring) / done.wall_seconds),
        "overhead_share_strict": _with_goal(case, "overhead_share_strict", 1 - useful / done.wall_seconds),
        "own_share": figure(1 - (useful + measuring + opening) / done.wall_seconds, at_most=0.05),
    }
    figures |= {f"seconds.{key}": figure(seconds) for key, seconds in account.items()}
    if document["answer"] is None:
        return figures
    lines = Lines(bundle)
    start, reference, answer = (lines.trial(role) for role in ("start", "reference", "answer"))
    figures |= {
        "answer": figure(answer["text"]),
        "reference": figure(reference["text"]),
        "over_start": _with_goal(case, "over_start", document["speedup"]["over_start"]),
        "over_lossless": _with_goal(case, "over_lossless", document["speedup"]["over_lossless"]),
        **_drop(case, "", document["drop_points"], document["verdict"]),
        "latency_seconds": figure(answer["latency"]),
        "start.latency_seconds": figure(start["latency"]),
        "throughput_over_start": figure(lines.throughput_ratio(answer, start)),
        "throughput_over_lossless": figure(lines.throughput_ratio(answer, reference)),
        "best_batch": figure(answer["best_batch"]),
        "start.best_batch": figure(start["best_batch"]),
        **{f"{who}{key}": figure(trial[key]) for who, trial in (("", answer), ("start.", start)) for key in COSTS},
        "noise_floor": figure(lines.run["noise_floor"]),
        "others_busy": figure(lines.run["load"]["others_busy"]),
    }
    figures |= _best_int8(case, lines)
    return {key: one for key, one in figures.items() if one["value"] is not None or one["goal"] is not None}


COSTS = ("size_bytes", "peak_memory_bytes")


class Lines:
    """The evidence of a bundle, by what it is about."""

    def __init__(self, bundle: Path) -> None:
        lines = evidence(bundle)
        self.run = next(line for line in lines if line["kind"] == "run")
        self.trials = [line for line in lines if line["kind"] == "trial"]
        self._measurements = [line for line in lines if line["kind"] == "measurement"]

    def trial(self, fate: str) -> dict[str, Any]:
        """The start, the reference or the answer. One trial may be two of them: a lossless answer is the reference too."""
        named = [t for t in self.trials if t["fate"] == fate]
        both = [t for t in self.trials if t["lossless"] and t["fate"] in ("answer", "start", "reference")]
        return (named or both)[-1]

    def final_latency(self, trial: Mapping[str, Any]) -> dict[str, Any] | None:
        """Its measurement in the final race, None where it was not there."""
        own = [m for m in self._measurements if m["trial"] == trial["id"] and m["metric"] == "latency" and m["stage"] == "final"]
        return own[-1] if own else None

    def latency_ratio(self, slow: Mapping[str, Any], fast: Mapping[str, Any]) -> Interval | None:
        """How many times faster one is than the other in the final race, None where they did not meet there."""
        a, b = self.final_latency(slow), self.final_latency(fast)
        if a is None or b is None or a["method"]["entrants"] != b["method"]["entrants"]:
            return None
        return ratio_interval(_rounds(a), _rounds(b), blocks=np.array(a["method"]["block_of_round"]))

    def throughput_ratio(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Interval | None:
        """Samples per second at each one's best batch size. Paired where that is the same; otherwise the ratio of the bounds."""
        a, b = self._best(ours), self._best(theirs)
        if a is None or b is None:
            return None
        if ours["id"] == theirs["id"]:
            return Interval(value=1.0, low=1.0, high=1.0)
        if ours["best_batch"] == theirs["best_batch"]:
            return ratio_interval(_rounds(a), _rounds(b))
        x, y = ours["throughput"], theirs["throughput"]
        return Interval(value=x["value"] / y["value"], low=x["low"] / y["high"], high=x["high"] / y["low"])

    def _best(self, trial: Mapping[str, Any]) -> dict[str, Any] | None:
        own = [m for m in self._measurements if m["trial"] == trial["id"] and m["metric"] == "throughput"]
        return next((m for m in own if m["method"]["batch_size"] == trial["best_batch"]), None)


def _rounds(measurement: Mapping[str, Any]) -> np.ndarray:
    samples, groups = np.array(measurement["samples"]), np.array(measurement["groups"])
    return np.array([np.median(samples[groups == g]) for g in np.unique(groups)])


def _best_int8(case: Case, lines: Lines) -> Figures:
    """The int8 candidate that came furthest, certified or not, and the fastest among equals."""
    order = ("answer", "passed", "promising", "lost", "failed")
    ours = [t for t in lines.trials if "int8-weights" in t["facts"] and t["speedup"]]
    if not ours:
        return {"int8.candidate": figure("none was timed")}
    best = min(ours, key=lambda t: (t["verdict"] is None, order.index(t["fate"]), -t["speedup"]["value"]))
    verdict = best["verdict"] or {}
    figures = {
        "int8.candidate": figure(best["text"]),
        "int8.verdict": figure(verdict.get("outcome") or f"not certified: {best['reason']}"),
        "int8.timed_in": figure("final race" if lines.final_latency(best) else "search"),
        "int8.over_lossless": _with_goal(case, "int8.over_lossless", best["speedup"]),
        "int8.over_start": _with_goal(case, "int8.over_start", lines.latency_ratio(lines.trial("start"), best)),
        "int8.size_bytes": figure(best["size_bytes"]),
    }
    if verdict.get("needed_samples"):
        figures["int8.needed_samples"] = figure(verdict["needed_samples"])
    return figures | _drop(case, "int8.", verdict.get("drop") or best["drop"], verdict.get("outcome"))


def _drop(case: Case, prefix: str, drop: Mapping[str, Any] | None, outcome: str | None) -> Figures:
    """The drop and its sample count. Its goal is met when it is certified: the upper bound keeps the limit, not the value."""
    if drop is None:
        return {}
    goal = case.goals.get("drop_points") if not prefix else None
    certified = {**goal, "met": outcome in ("passed", "reference")} if goal else {}
    return {f"{prefix}drop_points": figure(drop, **certified), f"{prefix}drop_samples": figure(drop["n"])}


def _with_goal(case: Case, name: str, value: Any) -> dict[str, Any]:
    return figure(value, **case.goals.get(name, {}))


def main() -> None:
    parser = argparse.ArgumentParser(description="hasten optimize on real models")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--budget", help="instead of each model's own, such as 60s")
    parser.add_argument("--keep-store", action="store_true", help="go on from the finished steps of the last run")
    arguments = parser.parse_args()
    figures = known_figures(NAME)
    for name in arguments.only or CASES:
        case = CASES[name]
        print(f"== {name}", flush=True)
        if sentence := why_skipped(case):
            print(f"  skipped: {sentence}")
            continue
        done = run(name, case, budget=arguments.budget or case.budget, keep_store=arguments.keep_store)
        figures = {key: one for key, one in figures.items() if not key.startswith(f"{name}.")}
        if done.document is None:
            last = (done.words.strip().splitlines() or ["it said nothing"])[-1]
            new = {"verdict": figure(f"exit code {done.code}: {last}", met=False if case.goals else None)}
        else:
            new = measure(case, done, BUNDLES / name)
        for key, one in new.items():
            print(told(key, one))
        figures |= {f"{name}.{key}": one for key, one in new.items()}
        write(NAME, figures)
    print("== all")
    finish(NAME, figures)


if __name__ == "__main__":
    main()
