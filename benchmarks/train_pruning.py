"""Structured pruning alone: what 30, 50 and 70 % fewer parameters are worth, and what they cost.

    make bench-train-pruning
    python benchmarks/train_pruning.py --only resnet20 --epochs 10

For each model and share: the technique `structured-pruning` cuts and trains (batch size and augmentation as the job says), the student is
exported and simplified, and raced in the runtimes against the fastest lossless program of the original, in one interleaved race with
five sets of fresh processes. The loss is judged on the certify split, one-sided 95 %, as hasten judges its own answers. Finished work
is kept under out/bench/stores.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
from common import BUNDLES, Figures, figure, finish, known_figures, prepare, told, workshop, write
from main_models import CASES, why_skipped

from hasten.core.candidate import Candidate, Floor
from hasten.core.measurement import Interval, Measurement
from hasten.core.registry import find, get
from hasten.core.seams import Runtime, Technique
from hasten.core.trial import Trial
from hasten.measure.latency import Plan
from hasten.measure.statistics import rate_drop, ratio_interval
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

NAME = "train-pruning"
MODELS = ("fashion-mnist", "resnet20")
SHARES: Mapping[float, tuple[float, float, float]] = {0.3: (0.65, 1.3, 0.5), 0.5: (0.48, 1.7, 1.0), 0.7: (0.25, 2.5, 2.0)}
"""Share of the parameters that is cut -> goals: size over the original's, speed over the fastest lossless program, points lost."""
FINAL = Plan(blocks=5, rounds=12, block_seconds=8.0, seed=1)
PATIENCE_SECONDS = 24 * 3600.0


def lowered(shop: Workshop, candidate: Candidate) -> Candidate:
    """The graph that ships: exported and simplified."""
    for name in ("export-onnx", "simplify"):
        candidate = shop.apply(get(Technique, name)(), candidate)
    return candidate


def programs(shop: Workshop, graph: Candidate) -> list[Trial]:
    """The graph on every runtime for graphs."""
    kinds = [kind() for kind in find(Runtime).values() if kind.floor is Floor.GRAPH]
    return [Trial(candidate=graph, runtime=r) for r in kinds if r.fits(graph, shop.target) is None]


def fastest(trials: list[Trial], latency: Mapping[str, Measurement]) -> Trial:
    return min(trials, key=lambda t: float(np.median(latency[t.id].round_medians())))


def parameters(shop: Workshop, graph: Candidate) -> int:
    return int(shop.count(graph)["parameters"])


def size(shop: Workshop, trial: Trial) -> int:
    return shop.compile(trial.runtime, trial.candidate).size_bytes


def measure(shop: Workshop, judge: Judge, epochs: int) -> Figures:
    """All figures of one model."""
    original = shop.workload.original
    graph = lowered(shop, original)
    figures: Figures = {}
    for share, goals in SHARES.items():
        technique = get(Technique, "structured-pruning")(share=share, epochs=epochs)
        student = lowered(shop, shop.apply(technique, original))
        old, new = programs(shop, graph), programs(shop, student)
        race = shop.race([*old, *new], FINAL, label="pruning")
        reference, answer = fastest(old, race.latency), fastest(new, race.latency)
        blocks = np.array(race.block_of_round)
        speed = ratio_interval(*(race.latency[t.id].round_medians() for t in (reference, answer)), blocks=blocks)
        drop = rate_drop(*judge.rows(answer, "certify"), alpha=0.05)
        named = f"{round(100 * share)}_percent"
        figures |= {f"{named}.{key}": one for key, one in _figures(shop, reference, answer, speed, drop, goals).items()}
        for key in list(figures)[-7:]:
            print(told(key, figures[key]), flush=True)
    return figures


def _figures(
    shop: Workshop, reference: Trial, answer: Trial, speed: Interval, drop: Interval, goals: tuple[float, float, float]
) -> dict[str, Any]:  # fmt: skip
    smaller, faster, lost = goals
    gone = 1 - parameters(shop, answer.candidate) / parameters(shop, reference.candidate)
    return {
        "parameters_removed": figure(gone),
        "size_over_original": figure(size(shop, answer) / size(shop, reference), at_most=smaller),
        "speed_over_lossless": figure(speed, at_least=faster),
        "drop_points": figure(drop, at_most=lost, met=drop.high <= lost),
        "samples": figure(drop.n),
        "reference": figure(reference.text),
        "program": figure(answer.text),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="structured pruning, priced")
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--epochs", type=int, default=10, help="passes over the train split after the cut (default: %(default)s)")
    arguments = parser.parse_args()
    figures = known_figures(NAME)
    for name in arguments.only or MODELS:
        print(f"== {name}", flush=True)
        if sentence := why_skipped(CASES[name]):
            print(f"  skipped: {sentence}")
            continue
        prepare(CASES[name].source)
        place = BUNDLES / "stores" / f"train-{name}"
        with workshop(CASES[name].source, store=place, seconds=PATIENCE_SECONDS, settings={"train.budget": "10h"}) as (shop, judge):
            new = measure(shop, judge, arguments.epochs)
        figures = {key: one for key, one in figures.items() if not key.startswith(f"{name}.")}
        figures |= {f"{name}.epochs": figure(arguments.epochs)} | {f"{name}.{key}": one for key, one in new.items()}
        write(NAME, figures)
    print("== all")
    finish(NAME, figures)


if __name__ == "__main__":
    main()
