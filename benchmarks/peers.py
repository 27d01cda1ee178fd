"""hasten's answer against other tools, side by side: same model, machine, threads, samples and limit on the loss.

    make bench-peers
    python benchmarks/peers.py --prepare --only resnet20     # what needs no quiet: what peers make that do not time, and its quality
    python benchmarks/peers.py --only resnet20 minilm-probe

Per model: hasten's bundle is the one of main-models (made where it is missing); each peer makes its program from the exported ONNX model,
the calibrate split and, where it tunes accuracy, the select split, in its own environment, within ten minutes, twice: as its
documentation shows it first, and with the best settings that are known (see benchmarks/peers). All programs then run in one interleaved
race (batch 1, two threads, each in its own process, five sets of fresh processes). The loss of each is judged on the certify split as
hasten judges its own: parity, else the paired test at the job's limit. A peer counts as a rival where it keeps the limit.

Figures of a model: `over_PEER`, how many times faster hasten's answer is than the peer's program (met: the interval reaches 1; a goal only
against peers that keep the limit), PEER.drop in points, PEER.verdict, PEER.settings, PEER.seconds. Finished work is kept in out/peers.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import main_models
import numpy as np
from common import BUNDLES, ROOT, Figures, figure, finish, known_figures, workshop, write
from rivals import PEERS, PLUGINS, SEES_OURS, Made, make, packages_of, python_of, write_inputs

from hasten.bundle.layout import PROGRAM
from hasten.bundle.read import Bundle
from hasten.core.candidate import Candidate, Step
from hasten.core.errors import HastenError
from hasten.core.job import Job
from hasten.core.measurement import Interval, Verdict
from hasten.core.registry import add_plugin, get
from hasten.core.seams import Runtime
from hasten.core.trial import Trial
from hasten.engine import ask
from hasten.measure.errands import Station
from hasten.measure.latency import Entrant, Plan, Race, final_plan, race
from hasten.measure.statistics import needed_samples, noninferiority, rate_drop, ratio_interval
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

NAME = "peers"
MODELS = ("digits", "fashion-mnist", "resnet20", "mobilenetv2", "minilm-probe", "efficientnet-lite0")
PLAIN = {"ort-fp32": "onnxruntime", "openvino-fp32": "openvino"}
"""The exported model as it is, by the runtime that runs it."""
ALPHA = 0.05
PATIENCE_SECONDS = 24 * 3600.0
OURS, TWIN = "hasten", "hasten-twin"


class Field:
    """The programs of one model that run against hasten's, and how each is judged."""

    def __init__(self, shop: Workshop, judge: Judge, graph: Candidate, made: Mapping[str, Made]) -> None:
        self._shop, self._judge = shop, judge
        self.figures: Figures = {}
        self.trials: dict[str, Trial] = {}
        self.verdicts: dict[str, Verdict] = {}
        for name, runtime in PLAIN.items():
            self._enter(name, Trial(candidate=graph, runtime=get(Runtime, runtime)()), "the exported model, no quantisation")
        for name, one in made.items():
            if one.program is None:
                self._absent(name, one.settings)
                continue
            self.figures[f"{name}.seconds"] = figure(one.seconds)
            self._enter(name, _trial(name, one, shop.workload.original, graph), one.settings)

    def _enter(self, name: str, trial: Trial, settings: str) -> None:
        try:
            if (problem := self._judge.sane(trial)) is not None:
                raise HastenError("program", problem)
            verdict = _judged(self._judge, trial)
        except HastenError as error:
            self._absent(name, f"{settings}: {error}")
            return
        self.trials[name], self.verdicts[name] = trial, verdict
        self.figures |= {f"{name}.verdict": figure(verdict.outcome), f"{name}.settings": figure(settings)}
        if verdict.drop is not None:
            self.figures |= {f"{name}.drop": figure(verdict.drop), f"{name}.samples": figure(verdict.drop.n)}
        print(f"  {name}: {verdict.reason}", flush=True)

    def _absent(self, name: str, why: str) -> None:
        self.figures |= {f"{name}.verdict": figure("no program"), f"{name}.settings": figure(why)}
        print(f"  {name}: no program: {why}", flush=True)

    def entrants(self, bundle: Bundle) -> list[Entrant]:
        """All of them and hasten's shipped program, twice: its ratio to its own twin is the noise."""
        shop, tensors = self._shop, self._shop.tensors("select")
        ours = bundle.path / PROGRAM
        pairs = [(key, bundle.runtime, ours, bundle.target) for key in (OURS, TWIN)]
        pairs += [(name, t.runtime, shop.compile(t.runtime, t.candidate).folder, shop.target) for name, t in self.trials.items()]
        return [
            Entrant(key=key, runtime=runtime, folder=folder, target=target, tensors=tensors, batch_size=1)
            for key, runtime, folder, target in pairs
        ]


def _trial(name: str, made: Made, original: Candidate, graph: Candidate) -> Trial:
    """A peer's program as a trial. Its identity is its content."""
    assert made.program is not None
    kind = "openvino-ir" if made.program.endswith(".xml") else made.runtime
    runtime = get(Runtime, kind)(**made.options)
    start = original if runtime.floor == original.floor else graph
    step = Step(name=f"peer-{name}", options={"content": made.content}, versions=made.versions)
    return Trial(candidate=start.then(step, made.folder / made.program, lossless=False), runtime=runtime)


def _judged(judge: Judge, trial: Trial) -> Verdict:
    """As hasten judges: what computes the same passes by parity, all else by the paired test on the certify split."""
    reference, candidate = judge.rows(trial, "certify")
    drop = rate_drop(reference, candidate, alpha=ALPHA)
    parity = judge.parity(trial)
    if parity.outcome == "passed":
        return Verdict(outcome="passed", reason=parity.reason, drop=drop, method=parity.method)
    return noninferiority(drop, judge.limit, alpha=ALPHA, needed=needed_samples(reference, candidate, judge.limit, ALPHA))


# Figures --------------------------------------------------------------------------------------------------------------


def speeds(result: Race, verdicts: Mapping[str, Verdict]) -> Figures:
    """How many times faster hasten's answer is than each one, and than the fastest: of those that keep the limit, and of all."""
    blocks = np.array(result.block_of_round)
    rounds = {name: latency.round_medians() for name, latency in result.latency.items()}
    over = {name: ratio_interval(rounds[name], rounds[OURS], blocks=blocks) for name in rounds if name != OURS}
    certified = [name for name, verdict in verdicts.items() if verdict.outcome == "passed"]
    figures: Figures = {f"latency_seconds.{name}": figure(latency.interval()) for name, latency in result.latency.items()}
    figures |= {f"over_{name}": _goal(over[name]) if name in certified else figure(over[name]) for name in verdicts}
    for title, names in (("fastest_certified", certified), ("fastest", list(verdicts))):
        if names:
            fastest = min(names, key=lambda name: over[name].value)
            figures |= {title: figure(fastest), f"over_{title}": (_goal if names is certified else figure)(over[fastest])}
    return {**figures, "noise": figure(over[TWIN]), "others_busy": figure(result.others_busy)}


def _goal(ratio: Interval) -> dict[str, Any]:
    """Not slower, beyond the noise: the interval reaches 1."""
    return figure(ratio, at_least=1.0, met=ratio.high >= 1)


def own(bundle: Bundle) -> Figures:
    """What hasten's bundle says of itself."""
    answer = next(line for line in bundle.evidence if line["kind"] == "answer")
    steps = [*answer["answer"]["recipe"], answer["answer"]["runtime"]]
    figures: Figures = {f"{OURS}.verdict": figure(answer["verdict"]), f"{OURS}.settings": figure(" > ".join(steps))}
    if answer["drop_points"] is not None:
        figures |= {f"{OURS}.drop": figure(answer["drop_points"]), f"{OURS}.samples": figure(answer["drop_points"]["n"])}
    return figures


def print_table(figures: Figures) -> None:
    """One row a program, the fastest first."""
    names = sorted((key.split(".", 1)[1] for key in figures if key.startswith("latency_seconds.")), key=lambda n: _value(figures, n))
    print(f"  {'program':20}{'ms':>8}  {'hasten is faster by':24}{'drop, points':24}{'verdict':12}settings")
    for name in names:
        ratio, drop = figures.get(f"over_{name}"), figures.get(f"{name}.drop")
        verdict, settings = (figures.get(f"{name}.{key}", {}).get("value") or "" for key in ("verdict", "settings"))
        print(f"  {name:20}{1e3 * _value(figures, name):8.3f}  {_told(ratio, 'x'):24}{_told(drop):24}{verdict:12}{settings}")


def _value(figures: Figures, name: str) -> float:
    return float(figures[f"latency_seconds.{name}"]["value"])


def _told(one: Mapping[str, Any] | None, unit: str = "") -> str:
    return "" if one is None else f"{one['value']:.2f}{unit} ({one['low']:.2f} to {one['high']:.2f})"


# The run --------------------------------------------------------------------------------------------------------------


def bundle_of(name: str) -> Bundle:
    """hasten's answer, by `hasten optimize` as main-models runs it where it is not there. Raises HastenError."""
    path = BUNDLES / name
    if not path.exists():
        print("  hasten optimize runs", flush=True)
        main_models.run(name, main_models.CASES[name], budget=main_models.CASES[name].budget, keep_store=True)
    return Bundle.open(path)


def compare(name: str, root: Path, arguments: argparse.Namespace) -> Figures | None:
    """All figures of one model; None where only the preparation was asked. Raises HastenError."""
    source, folder = main_models.CASES[name].source, root / name
    job = Job.read(ROOT / source)
    with workshop(source, store=root / "stores" / name, seconds=PATIENCE_SECONDS) as (shop, judge):
        facts = ask(job, shop.workload, shop.target, shop.study, shop.crew).facts
        model = str((job.folder / str(job.model.source)).relative_to(ROOT))
        graph = write_inputs(shop, model, limit=judge.limit, facts=facts, folder=folder / "inputs")
        wanted = [peer for peer in arguments.peers or PEERS if not (arguments.prepare and PEERS[peer].times)]
        made = {peer: make(peer, folder / "inputs", folder / peer, root, retry=arguments.retry) for peer in wanted}
        field = Field(shop, judge, graph, made)
        if arguments.prepare:
            return None
        bundle = bundle_of(name)
        plan = Plan(blocks=arguments.blocks, rounds=final_plan(300.0).rounds, block_seconds=30.0, seed=1)
        with shop.store.measuring():
            result = race(field.entrants(bundle), plan, where=Station(store=shop.store).where())
    return {**own(bundle), **field.figures, **speeds(result, field.verdicts)}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="hasten's answer against other tools")
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--prepare", action="store_true", help="make and judge what needs no quiet machine, and stop")
    parser.add_argument("--retry", action="store_true", help="try again what a peer failed at before")
    parser.add_argument("--blocks", type=int, default=5, help="sets of fresh processes (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "peers", help="where finished work is kept (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    root = arguments.out.resolve()
    for plugin in PLUGINS:
        add_plugin(plugin)
    if python_of(SEES_OURS, root):
        os.environ["HASTEN_TORCHAO"] = str(packages_of(SEES_OURS, root))
    figures = known_figures(NAME)
    for name in arguments.only or MODELS:
        print(f"== {name}", flush=True)
        if sentence := main_models.why_skipped(main_models.CASES[name]):
            print(f"  skipped: {sentence}")
            continue
        try:
            new = compare(name, root, arguments)
        except HastenError as error:
            print(f"  skipped: {error}")
            continue
        if new is None:
            continue
        print_table(new)
        figures = {key: one for key, one in figures.items() if not key.startswith(f"{name}.")}
        figures |= {f"{name}.{key}": one for key, one in new.items()}
        write(NAME, figures)
    if arguments.prepare:
        return
    print("== all")
    finish(NAME, figures)


if __name__ == "__main__":
    main()
