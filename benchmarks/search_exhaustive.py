"""Does the search find what trying everything finds, and in how much less time?

    make bench-search-exhaustive
    python benchmarks/search_exhaustive.py --only digits resnet20

For each model every program of the space is built, compiled, judged on the whole select split and timed as in a final race (five sets of
fresh processes), once, or again where cores were shared meanwhile; all of it stays in the store under out/bench/stores. Then the search
runs over that record with 10 seeds: finished steps are taken from the store and count with the seconds that they took, and races draw
their rounds from the recorded ones, a block at a time. The answer of the search (the contender that it would certify first) is compared
with the fastest program that keeps quality. Mixed precision, which makes new programs from what was learnt, is left out on both sides.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import BUNDLES, ROOT, Figures, figure, finish, known_figures, prepare, told, write
from main_models import CASES, why_skipped

from hasten.core.candidate import Candidate, Floor
from hasten.core.errors import NotPossibleHere
from hasten.core.job import Job
from hasten.core.machine import this_machine
from hasten.core.measurement import Measurement
from hasten.core.registry import find
from hasten.core.seams import Runtime
from hasten.core.store import Record, Store
from hasten.core.trial import Fate, Trial
from hasten.engine import ask, make_target
from hasten.measure.cores import SHARED
from hasten.measure.latency import Plan, Race
from hasten.measure.sensitivity import Part
from hasten.measure.sequential import looks
from hasten.search.building import right_runtime
from hasten.search.crew import Local
from hasten.search.explore import Explorer
from hasten.search.judge import Judge
from hasten.search.observer import Observer
from hasten.search.opening import choose_metric, open_workload
from hasten.search.planner import variants
from hasten.search.space import make_space
from hasten.search.study import Study
from hasten.search.workshop import Workshop

NAME = "search-exhaustive"
MODELS = ("digits", "fashion-mnist", "resnet20", "mobilenetv2", "minilm-probe")
FINAL = Plan(blocks=5, rounds=12, block_seconds=8.0, seed=1)
CHUNK = 8  # programs a race; the reference runs in each
SEEDS = 10


@dataclass(frozen=True)
class Bank:
    """What was recorded. logs: of each program, log of its time over the reference's, [blocks, rounds]; right: whether it keeps quality
    on the whole select split; reference_seconds: median time; seconds: of everything; race_seconds: of one program in one block."""

    logs: Mapping[str, np.ndarray]
    texts: Mapping[str, str]
    right: Mapping[str, bool]
    reference_seconds: float
    seconds: float
    race_seconds: float

    def cost(self, key: str) -> float:
        """Of a typical process: now and then one is slow as a whole."""
        return float(np.median(self.logs[key]))

    def best(self) -> str:
        return min((key for key, right in self.right.items() if right), key=self.cost)


class Replay(Workshop):
    """The workshop over a record: steps must be there, and races draw from the bank."""

    bank: Bank
    rng: np.random.Generator

    def race(
        self, trials: Sequence[Trial], plan: Plan, *, batch_size: int | None = None, twin_of: Trial | None = None, label: str
    ) -> Race:  # fmt: skip
        rounds, latency = plan.blocks * plan.rounds, {}
        for trial in trials:
            blocks = self.bank.logs[trial.id]
            drawn = [self.rng.choice(blocks[self.rng.integers(len(blocks))], plan.rounds) for _ in range(plan.blocks)]
            samples = self.bank.reference_seconds * np.exp(np.concatenate(drawn))
            latency[trial.id] = Measurement(metric="latency", unit="s", samples=tuple(samples), groups=tuple(range(rounds)))
        seconds = self.bank.race_seconds * len(trials) * plan.blocks * (0.5 + 0.5 * plan.rounds / FINAL.rounds)
        self.study.credit(seconds)
        self.worked_seconds += seconds
        blocks_of_rounds = tuple(b for b in range(plan.blocks) for _ in range(plan.rounds))
        return Race(latency=latency, block_of_round=blocks_of_rounds, others_busy=0.0)

    def parts(self, candidate: Candidate, *, reduce_range: bool) -> list[Part]:
        raise NotPossibleHere("mixed precision", "is not part of the record")

    def _step(self, kind: str, identity: Mapping[str, Any], work: Any) -> Record:
        if kind in ("ceilings", "operators"):  # of a runtime with the knobs that won this replay's race of lossless programs
            return super()._step(kind, identity, work)

        def missing(folder: Path) -> Any:
            raise SystemExit(f"the record lacks a step of kind {kind}: record again")

        return super()._step(kind, identity, missing)


@dataclass
class Scene:
    """One model, opened."""

    shop: Workshop
    study: Study
    judge: Judge
    explorer: Explorer


def scene(source: str, store: Store, kind: type[Workshop] = Workshop) -> Scene:
    job = Job.read(ROOT / source, {"target.threads": 2, "search.budget": "10h"})
    study, target, workload = Study(job.search.budget, Observer()), make_target(job, this_machine()), open_workload(job, store)
    metric, profile = choose_metric(job, workload), ask(job, workload, target, study, Local(store))
    profile = replace(profile, facts=profile.facts - {"busy"})
    shop = kind(store, study, workload, target, job.search.seed)
    start = Trial(candidate=workload.original, runtime=right_runtime(workload.original.floor), fate=Fate.START)
    judge = Judge(shop, start, metric, job.limits.max_drop)
    return Scene(shop, study, judge, Explorer(shop, study, judge, profile, make_space(job, target, profile), start))


def every_program(explorer: Explorer) -> Iterator[Trial]:
    """What changes outputs, on every runtime with every knob."""
    base = explorer.graphs[-1]
    for technique in variants(explorer.space.techniques, explorer.profile, base):
        candidate = explorer.shop.apply(technique, base)
        for kind in find(Runtime).values():
            for runtime in kind.space(explorer.profile) if kind.floor is Floor.GRAPH else ():
                if runtime.fits(candidate, explorer.shop.target) is None:
                    yield Trial(candidate=candidate, runtime=runtime)


def record(source: str, store: Store) -> Bank:
    """Try everything."""
    s = scene(source, store)
    with s.judge as judge:
        judge.check()
        s.explorer.lossless()
        s.explorer._measure_physics()
        lossless = [t for t in s.study.trials.values() if t.fate is not Fate.FAILED]
        reference, right = s.explorer.reference, {t.id: True for t in lossless}
        trials = list(lossless)
        for trial in every_program(s.explorer):
            if judge.sane(trial) is None:
                for _ in judge.growing(trial, "select", looks(judge.num_samples("select"))):
                    pass
                judged = judge.sample(trial)
                right[trial.id] = judged.state == "in" or (judged.state == "unsure" and judge.is_likely(judged.drop))
                trials.append(trial)
        return _timed(s, trials, reference, right)


def _timed(s: Scene, trials: list[Trial], reference: Trial, right: Mapping[str, bool]) -> Bank:
    others = [t for t in trials if t.id != reference.id]
    began, logs, own = s.shop.worked_seconds, {}, []
    for at in range(0, len(others), CHUNK):
        chunk = others[at : at + CHUNK]
        race = _calm(s.shop, [reference, *chunk])
        base = race.latency[reference.id].round_medians()
        own.append(base)
        blocks = np.array(race.block_of_round)
        for trial in chunk:
            ratio = np.log(race.latency[trial.id].round_medians() / base)
            logs[trial.id] = np.stack([ratio[blocks == b] for b in np.unique(blocks)])
    raced = s.shop.worked_seconds - began
    # Against itself the reference has the luck and the noise of two processes; half of a rival's deviations stand for its own.
    typical = min(logs.values(), key=lambda a: float(np.abs(a).mean()))
    logs[reference.id] = (typical - typical.mean()) / math.sqrt(2)
    each = raced / ((len(others) + math.ceil(len(others) / CHUNK)) * FINAL.blocks)
    return Bank(
        logs=logs, texts={t.id: t.text for t in trials}, right=right, reference_seconds=float(np.median(np.concatenate(own))),
        seconds=s.shop.worked_seconds, race_seconds=each,
    )  # fmt: skip


def _calm(shop: Workshop, trials: list[Trial]) -> Race:
    """Times them; again, twice at most, where cores were shared meanwhile: what programs of several threads took then is not their time."""
    races = []
    for seed in range(FINAL.seed, FINAL.seed + 3):
        races.append(shop.race(trials, replace(FINAL, seed=seed), label="exhaustive"))
        if races[-1].slowdown <= SHARED:
            break
    return min(races, key=lambda race: race.slowdown)


def replay(source: str, store: Store, bank: Bank, seed: int) -> tuple[str, float, list[tuple[float, float]]]:
    """One search over the record: its answer, its seconds, and (forecast, outcome) of each of its steps."""
    s = scene(source, store, Replay)
    assert isinstance(s.shop, Replay)
    s.shop.bank, s.shop.rng = bank, np.random.default_rng(seed)
    with s.judge as judge:
        judge.check()
        s.explorer.lossless()
        s.explorer.lossy(reserve_seconds=0.0)
    found = s.explorer.explored()
    answer = next((t for t in found.contenders if bank.right[t.id]), found.reference)
    told_of = [
        (d.forecast["speedup"], d.outcome["speedup"]) for d in s.study.decisions if d.forecast and d.outcome and d.outcome["speedup"]
    ]
    return answer.id, s.shop.worked_seconds, told_of


def run(name: str, seeds: int) -> Figures:
    """All figures of one model. forecast_errors: their minimum, deciles and maximum."""
    source, place = CASES[name].source, BUNDLES / "stores" / f"exhaustive-{name}"
    place.mkdir(parents=True, exist_ok=True)
    prepare(source)
    store = Store(place)
    bank = record(source, store)
    best = bank.best()
    runs = [replay(source, store, bank, seed) for seed in range(seeds)]
    gaps = [math.exp(bank.cost(answer) - bank.cost(best)) - 1 for answer, _, _ in runs]
    shares = [seconds / bank.seconds for _, seconds, _ in runs]
    errors = [abs(forecast / outcome - 1) for _, _, told_of in runs for forecast, outcome in told_of]
    goal = 0.9
    return {
        "programs": figure(len(bank.logs)),
        "exhaustive_seconds": figure(bank.seconds),
        "true_best": figure(bank.texts[best]),
        "within_5_percent_share": figure(sum(gap <= 0.05 for gap in gaps) / len(gaps), at_least=goal),
        "gap": figure(statistics.median(gaps), min(gaps), max(gaps)),
        "time_share": figure(statistics.median(shares), min(shares), max(shares), at_most=0.2),
        "steps": figure(len(errors) / len(runs)),
        "forecast_error": figure(statistics.median(errors), *np.quantile(errors, [0.05, 0.95]), at_most=0.2),
        "forecast_errors": figure(json.dumps([round(float(q), 3) for q in np.quantile(errors, np.linspace(0, 1, 11))])),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="the search against trying everything")
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    figures = known_figures(NAME)
    for name in arguments.only or MODELS:
        print(f"== {name}", flush=True)
        if sentence := why_skipped(CASES[name]):
            print(f"  skipped: {sentence}")
            continue
        new = run(name, arguments.seeds)
        for key, one in new.items():
            print(told(key, one), flush=True)
        figures = {key: one for key, one in figures.items() if not key.startswith(f"{name}.")}
        figures |= {f"{name}.{key}": one for key, one in new.items()}
        write(NAME, figures)
    print("== all")
    finish(NAME, figures)


if __name__ == "__main__":
    main()
