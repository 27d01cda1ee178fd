"""kill -9 at random moments of `hasten optimize`: does the resumed search end with the same answer, and repeat nothing?

    make bench-main-kill
    python benchmarks/main_kill.py --times 10

One uninterrupted run tells the answer and how long it takes. Then, each time with an empty store: start, kill the whole process group
at a moment drawn evenly from that time, run the same command again to its end, and read the journal of both. About four minutes a kill.

An answer is the same when recipe and runtime are. Two lossless programs may be equally fast, and then the noise of a fresh
measurement decides which is named, killed or not: `same_or_tied_answer` counts those whose own race could not tell the two apart.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import BUNDLES, ROOT, evidence, figure, finish, optimize, prepare, start_optimize

from hasten.core.store import Store
from hasten.measure.statistics import ratio_interval

PLACE = BUNDLES / "kill"
DEATH_SECONDS = 5.0  # that children have to follow their parent


@dataclass(frozen=True)
class Search:
    """The command under test: what comes after `hasten optimize`."""

    arguments: tuple[str, ...]

    def with_out(self, out: Path) -> list[str]:
        return [*self.arguments, "--out", str(out.relative_to(ROOT))]


@dataclass(frozen=True)
class Kill:
    """What one kill and resume showed. finished: steps that were finished when it died; problems: sentences, none where all is well."""

    at_seconds: float
    finished: int
    answer: Mapping[str, Any]
    repeated: tuple[str, ...]
    orphans: tuple[str, ...]
    bundle: Path


def kill_and_resume(search: Search, at_seconds: float, number: int) -> Kill | None:
    """None where the search had ended before the moment came."""
    store, out = PLACE / f"store-{number}", PLACE / f"out-{number}"
    for folder in (store, out):
        shutil.rmtree(folder, ignore_errors=True)
    store.mkdir(parents=True)
    process = start_optimize(*search.with_out(out), store=store, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        if code := process.wait(at_seconds):
            raise SystemExit(f"the search that was to be killed ended by itself with exit code {code}")
        return None
    family = children(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    orphans = survivors(process.pid, family)
    before = Store(store).journal()
    done = optimize(*search.with_out(out), store=store)
    if done.document is None:
        raise SystemExit(f"the resumed run ended with exit code {done.code}: {done.words[-500:]}")
    after = Store(store).journal()[len(before) :]
    return Kill(
        at_seconds=at_seconds, finished=sum(line["event"] == "finish" for line in before), answer=done.document["answer"],
        repeated=tuple(repeated(before, after)), orphans=orphans, bundle=out,
    )  # fmt: skip


def repeated(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """Steps that ran again although they were finished."""
    finished = {line["key"] for line in before if line["event"] == "finish"}
    again = [f"{line['kind']} was started again" for line in after if line["event"] == "start" and line["key"] in finished]
    ends = Counter((line["kind"], line["key"]) for line in [*before, *after] if line["event"] == "finish")
    return again + [f"{kind} finished {count} times" for (kind, _), count in ends.items() if count > 1]


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def survivors(parent: int, family: list[psutil.Process]) -> tuple[str, ...]:
    """Children that outlive their parent for longer than DEATH_SECONDS: those seen before, and those started since."""
    deadline = time.monotonic() + DEATH_SECONDS
    while left := [p for p in {*family, *late_children(parent)} if is_alive(p)]:
        if time.monotonic() > deadline:
            return tuple(f"process {p.pid}" for p in left)
        time.sleep(0.1)
    return ()


def late_children(parent: int) -> list[psutil.Process]:
    """Worker processes that name their parent on the command line (see hasten.measure.child)."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "hasten.measure.child" in words and words[-1] == str(parent):
            found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Recipe and runtime are equal; the runtime's knobs may differ."""
    return bool(a["recipe"] == b["recipe"] and a["runtime"].partition("(")[0] == b["runtime"].partition("(")[0])


def tied(bundle: Path, wanted: Mapping[str, Any], got: Mapping[str, Any]) -> bool:
    """Whether the resumed run timed both answers in one race and could not tell which is faster."""
    lines = [line for line in evidence(bundle) if line["kind"] == "measurement" and line["metric"] == "latency"]
    for a in (line for line in lines if line["trial"] == wanted["id"]):
        for b in (line for line in lines if line["trial"] == got["id"]):
            if a["method"]["entrants"] == b["method"]["entrants"]:
                ratio = ratio_interval(rounds(a), rounds(b))
                return bool(ratio.low <= 1 <= ratio.high)
    return False


def rounds(measurement: Mapping[str, Any]) -> Any:
    from hasten.core.measurement import Measurement

    return Measurement.from_json({k: v for k, v in measurement.items() if k not in ("kind", "trial", "stage")}).round_medians()


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 at random moments of a search")
    parser.add_argument("source", nargs="?", default="examples/digits/job.toml", help="job file or ONNX file (default: %(default)s)")
    parser.add_argument("--data", help="as for hasten optimize")
    # Long enough to try everything, so that what is answered does not hang on how fast this minute was.
    parser.add_argument("--budget", default="6m", help="of each run (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for hasten optimize")
    parser.add_argument("--times", type=int, default=10, metavar="N", help="kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = ["--data", arguments.data] if arguments.data else []
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    search = Search((arguments.source, "--threads", "2", "--budget", arguments.budget, *data, *settings))
    shutil.rmtree(PLACE, ignore_errors=True)
    (PLACE / "store").mkdir(parents=True)
    prepare(arguments.source)
    whole = optimize(*search.with_out(PLACE / "out"), store=PLACE / "store")
    if whole.document is None or whole.document["answer"] is None:
        raise SystemExit(f"the uninterrupted run gave no answer (exit code {whole.code}): {whole.words[-500:]}")
    wanted = whole.document["answer"]
    print(f"uninterrupted: {whole.wall_seconds:.0f} s, {name_of(wanted)}", flush=True)
    moments = random.Random(arguments.seed)
    kills: list[Kill] = []
    while len(kills) < arguments.times:
        kill = kill_and_resume(search, moments.uniform(0, whole.wall_seconds), len(kills))
        if kill is None:
            print("the search had ended before the kill: another moment is drawn", flush=True)
            continue
        kills.append(kill)
        problems = [*kill.repeated, *(f"{orphan} outlived its parent" for orphan in kill.orphans)]
        told = f"{len(kills):3} killed at {kill.at_seconds:5.1f} s with {kill.finished} steps finished; resumed: {name_of(kill.answer)}"
        print("; ".join([told, *problems]), flush=True)
        shutil.rmtree(PLACE / f"store-{len(kills) - 1}", ignore_errors=True)
    n, steps = len(kills), sorted(k.finished for k in kills)
    finish(
        "main-kill",
        {
            "same_answer": figure(sum(same(k.answer, wanted) for k in kills), at_least=n),
            "same_or_tied_answer": figure(sum(same(k.answer, wanted) or tied(k.bundle, wanted, k.answer) for k in kills), at_least=n),
            "same_knobs": figure(sum(k.answer["id"] == wanted["id"] for k in kills)),
            "nothing_repeated": figure(sum(not k.repeated for k in kills), at_least=n),
            "no_orphans": figure(sum(not k.orphans for k in kills), at_least=n),
            "kills": figure(n),
            "steps_finished_at_kill": figure(steps[n // 2], steps[0], steps[-1]),
            "uninterrupted_seconds": figure(whole.wall_seconds),
        },
    )


def name_of(answer: Mapping[str, Any]) -> str:
    return " > ".join([*answer["recipe"], answer["runtime"]])


if __name__ == "__main__":
    main()
