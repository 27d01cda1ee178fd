"""Architecture search: how much faster its student is than the fastest lossless program, at what certified loss, beside its siblings.

    make bench-train-architecture
    python benchmarks/train_architecture.py --train       # trains first, when nothing needs to be quiet

Rows: what the search left, in float and in int8; the same search with proposals at random; and two of the short list of `distillation`,
taught for as many passes over the data as the student of the search after its rungs. Another race tells how well the table that prices
networks ranks ten of them, spread over the prices of what was proposed; what the search wrote down tells how well the first rung ranks
them for the later ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from common import BUNDLES, Figures, figure
from scipy.stats import spearmanr
from training import NOTHING, PRICED_ON, Goals, compared, eight_bits, lowered, programs, ready, run, traced

from hasten.core.candidate import Step
from hasten.core.registry import get
from hasten.core.seams import Runtime, Technique
from hasten.core.trial import Trial
from hasten.measure.latency import Plan
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop
from hasten.train.nets import Architecture, ConvNet, Stage, build

GOALS: Goals = (None, 4.5, 1.0)
"""At least as good as a pruned student."""
SEARCH: Mapping[str, Any] = {"speed": 6.5, "epochs": 4, "alpha": 0.5}
"""The price is of layers alone: those of the pruned student of `train_chain` are 6.7 times faster, and it runs at 6.4x."""
PASSES = 4  # over the data: as many as the student of a search after its rungs, where it saw 2.5


def searched(sampler: str) -> Technique:
    return get(Technique, "architecture-search")(sampler=sampler, **SEARCH)


def listed(student: str) -> Technique:
    return get(Technique, "distillation")(student=student, epochs=PASSES, alpha=0.5)


TECHNIQUES: Mapping[str, Technique] = {
    "searched": searched("nsga2"),
    "random": searched("random"),
    "resnet": listed("resnet"),
    "mobilenet": listed("mobilenet"),
}


RANKED = 10
PLAN = Plan(blocks=3, rounds=12, block_seconds=9.0, warm_up_seconds=0.5, seed=1)
RANKING = Plan(blocks=2, rounds=10, block_seconds=6.0, warm_up_seconds=0.3, seed=1)


def train(shop: Workshop, model: str) -> None:
    original = shop.workload.original
    for technique in TECHNIQUES.values():
        ready(shop, students(shop, technique))
    student = shop.apply(TECHNIQUES["searched"], original)
    ready(shop, [*eight_bits(shop, student), *ranked(shop, student.tried, model)[0]])


def students(shop: Workshop, technique: Technique) -> list[Trial]:
    return programs(shop, lowered(shop, shop.apply(technique, shop.workload.original)))


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    original = shop.workload.original
    rows = {name: (students(shop, one), GOALS if name == "searched" else NOTHING) for name, one in TECHNIQUES.items()}
    found = {name: shop.apply(TECHNIQUES[name], original) for name in ("searched", "random")}
    rows["searched_int8"] = (eight_bits(shop, found["searched"]), GOALS)
    old = programs(shop, lowered(shop, original))
    figures = {f"{name}.technique": figure(one.step().text) for name, one in TECHNIQUES.items()}
    for name, student in found.items():
        (sentence, *_), tried = student.notes, student.tried
        figures[f"{name}.told"] = figure(sentence)
        figures |= {f"{name}.{key}": one for key, one in rungs(tried).items()}
    figures |= compared(shop, judge, old, rows, label="architecture", plan=PLAN)
    return figures | prices(shop, found["searched"].tried, model)


def rungs(tried: Sequence[Mapping[str, Any]]) -> Figures:
    """How well a rung's losses rank the networks that went on, by the losses of the next; the best of each rung."""
    figures: Figures = {}
    for rung in range(max(len(one["losses"]) for one in tried)):
        here = [one["losses"] for one in tried if len(one["losses"]) > rung]
        figures[f"rung{rung}.best_loss"] = figure(min(losses[rung] for losses in here))
        if rung and len(here) > 2:
            figures[f"rung{rung}.rank_correlation_with_first"] = figure(
                float(spearmanr([losses[0] for losses in here], [losses[rung] for losses in here])[0])
            )
            figures[f"rung{rung}.networks"] = figure(len(here))
    return figures


def prices(shop: Workshop, tried: Sequence[Mapping[str, Any]], model: str) -> Figures:
    """How well the table ranks networks by time."""
    trials, chosen = ranked(shop, tried, model)
    race = shop.race(trials, RANKING, label="prices")
    real = np.array([float(np.median(race.latency[t.id].round_medians())) for t in trials])
    price = np.array([one["seconds"] for one in chosen])
    scale = float(np.median(real / price))
    errors = np.abs(price * scale / real - 1)
    return {
        "prices.rank_correlation": figure(float(spearmanr(price, real)[0])),
        "prices.networks": figure(len(trials)),
        "prices.dearest_over_cheapest": figure(float(price.max() / price.min())),
        "prices.measured_over_price": figure(scale),
        "prices.median_error": figure(float(np.median(errors))),
        "prices.largest_error": figure(float(errors.max())),
    }


def ranked(shop: Workshop, tried: Sequence[Mapping[str, Any]], model: str) -> tuple[list[Trial], list[Mapping[str, Any]]]:
    """Untrained networks of the search, from the cheapest to the dearest: weights do not change what they take."""
    ordered = sorted(tried, key=lambda one: one["seconds"])
    chosen = [ordered[round(n * (len(ordered) - 1) / (RANKED - 1))] for n in range(RANKED)]
    original, runtime, trials = shop.workload.original, get(Runtime, PRICED_ON)(), []
    example = [torch.from_numpy(np.array(np.load(path, mmap_mode="r")[:2])) for path in shop.tensors("calibrate").values()]
    num_out = original.signature.outputs[0].shape[1]
    assert num_out is not None
    for one in chosen:
        module = build(rebuilt(one["description"]), example, num_out, seed=0)
        folder = BUNDLES / "architectures" / model / str(one["number"])
        step = Step(name="proposed", options=dict(one["description"]))
        trials.append(Trial(candidate=traced(module, example, original, step, folder), runtime=runtime))
    return trials, chosen


def rebuilt(description: Mapping[str, Any]) -> Architecture:
    """What the evidence says of a network of pictures, as a description again."""
    return ConvNet(**{**description, "stages": tuple(Stage(**stage) for stage in description["stages"])})


if __name__ == "__main__":
    run("train-architecture", "architecture search, priced", measure, train, ["wide-resnet20"])
