"""What the benchmarks share: figures, the result line, and `hasten optimize` as a user runs it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hasten.core.job import Job
from hasten.core.machine import this_machine
from hasten.core.measurement import Interval
from hasten.core.seams import Target
from hasten.core.store import Store
from hasten.core.trial import Trial
from hasten.measure.quality import METRICS
from hasten.search.building import right_runtime
from hasten.search.judge import Judge
from hasten.search.observer import Observer
from hasten.search.opening import open_workload
from hasten.search.study import Study
from hasten.search.workshop import Workshop

HERE = Path(__file__).parent
ROOT = HERE.parent
BUNDLES = ROOT / "out" / "bench"
"""Bundles and stores of the benchmarks: a benchmark may go on from what another one left here."""

Figures = dict[str, dict[str, Any]]

# Figures and their file -----------------------------------------------------------------------------------------------


def figure(
    value: Any, low: float | None = None, high: float | None = None, *, at_least: float | None = None, at_most: float | None = None,
    met: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One figure. value: a number, an interval (its JSON too), or a word; at_least, at_most: the goal.

    `met` says whether the value reaches the goal, unless it is given; how sure that is, low and high tell.
    """
    if isinstance(value, Interval):
        value, low, high = value.value, value.low, value.high
    elif isinstance(value, Mapping):
        value, low, high = value["value"], value["low"], value["high"]
    goal = at_least if at_least is not None else at_most
    if met is None and goal is not None:
        reached = isinstance(value, int | float) and not math.isnan(value)
        met = reached and (value >= goal if at_least is not None else value <= goal)
    return {"value": _short(value), "low": _short(low), "high": _short(high), "goal": goal, "met": met}


def told(name: str, one: Mapping[str, Any]) -> str:
    """A figure as a line for people."""
    text = f"{one['value']:.4g}" if isinstance(one["value"], int | float) else str(one["value"])
    if one["low"] is not None and one["high"] is not None:
        text += f" ({one['low']:.4g} to {one['high']:.4g})"
    goal = "" if one["goal"] is None else f"   goal {one['goal']:g}: {'met' if one['met'] else 'NOT met'}"
    return f"  {name:44} {text}{goal}"


def known_figures(name: str) -> Figures:
    """The figures that benchmarks/results/NAME.json holds from former runs."""
    path = HERE / "results" / f"{name}.json"
    return dict(json.loads(path.read_text())["figures"]) if path.exists() else {}


def merged(name: str, figures: Figures) -> Figures:
    """The figures, and those of former runs that have other names; each with the date and the machine of its run."""
    path = HERE / "results" / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {"figures": {}}
    former = {key: one if "date" in one else {**one, **_when_and_where(known)} for key, one in known["figures"].items()}
    now = {"date": _today(), "machine": this_machine().text}
    return {**former, **{key: {**one, **now} for key, one in figures.items()}}


def write(name: str, figures: Figures) -> dict[str, Any]:
    """Write benchmarks/results/NAME.json, whole or not at all."""
    document = {"name": name, "date": _today(), "machine": this_machine().text, "figures": figures}
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(path)
    return document


def finish(name: str, figures: Figures) -> None:
    """The end of a benchmark: the figures for people, the file, and the same as the last line."""
    for key, one in figures.items():
        print(told(key, one))
    print(f"{this_machine().text}; load {os.getloadavg()[0]:.1f}; benchmarks/results/{name}.json")
    print(json.dumps(write(name, figures)), flush=True)


def _when_and_where(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in ("date", "machine")}


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _short(value: Any) -> Any:
    """Six digits are more than any figure here owns; JSON has no infinity."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


# `hasten optimize` ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One finished `hasten optimize --json`. document: its last line, None where it printed none; words: standard error."""

    code: int
    document: dict[str, Any] | None
    words: str
    wall_seconds: float


def optimize(*arguments: str, store: Path) -> Run:
    """Run `hasten optimize ARGUMENTS --json` from the root of the checkout, with its own store."""
    process = start_optimize(*arguments, store=store)
    began = time.perf_counter()
    output, words = process.communicate()
    lines = output.strip().splitlines()
    document = json.loads(lines[-1]) if process.returncode in (0, 5) and lines else None
    return Run(code=process.returncode, document=document, words=words, wall_seconds=time.perf_counter() - began)


def start_optimize(*arguments: str, store: Path, **options: Any) -> subprocess.Popen[str]:
    """The same, only started, in a session of its own."""
    command = [sys.executable, "-m", "hasten", "optimize", *arguments, "--json"]
    environment = {**os.environ, "HASTEN_STORE": str(store)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)


def prepare(source: str) -> None:
    """Let an example train or embed what it keeps for later calls, so that hasten's time is hasten's alone."""
    job = ROOT / source
    if job.suffix != ".toml":
        return
    file, _, function = str(Job.read(job).model.source).partition(":")
    code = f"import runpy; runpy.run_path({file!r})[{function!r}]()"
    subprocess.run([sys.executable, "-c", code], cwd=job.parent, check=True, stdout=subprocess.DEVNULL)


def evidence(bundle: Path) -> list[dict[str, Any]]:
    """The lines of a bundle's evidence (see hasten.bundle.layout)."""
    return [json.loads(line) for line in (bundle / "evidence.jsonl").read_text().splitlines()]


# hasten's own workshop, for programs that no search makes -------------------------------------------------------------


@contextmanager
def workshop(
    source: str, *, store: Path, threads: int = 2, seconds: float = 600.0, settings: Mapping[str, Any] | None = None
) -> Iterator[tuple[Workshop, Judge]]:  # fmt: skip
    """Where programs of a job are built, run and judged outside a search; finished steps are in `store`.

    seconds: the time by which builds and compilations must have ended; settings: keys of the job that differ from the file.
    """
    job, kept = Job.read(ROOT / source, settings), Store(store)
    workload = open_workload(job, kept)
    shop = Workshop(kept, Study(seconds, Observer(), job.train.budget), workload, Target(threads=threads), job.search.seed, train=job.train)
    start = Trial(candidate=workload.original, runtime=right_runtime(workload.original.floor))
    with Judge(shop, start, METRICS[job.quality.metric or "accuracy"], job.limits.max_drop) as judge:
        yield shop, judge
