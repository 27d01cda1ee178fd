"""The width table: how near the latency that it predicts is to what is measured, for 20 random prunings.

    make bench-train-widths

The table is measured layer by layer, every width of every place in the network. Five whole programs (the original and four other random
prunings) say what a call takes beside its layers. Predictions are made for 20 prunings that nothing was fitted to.
"""

from __future__ import annotations

import json

import numpy as np
from common import Figures, figure
from random_pruning import RandomPruning
from training import PRICED_ON, lowered, run

from hasten.core.candidate import Candidate
from hasten.core.registry import get
from hasten.core.seams import Runtime
from hasten.core.trial import Trial
from hasten.core.widths import Site, WidthTable
from hasten.measure.latency import Plan
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop
from hasten.train.cut import find_sites
from hasten.train.lift import read_module

TRIED, FITTED = 20, 4
PLAN = Plan(blocks=3, rounds=10, block_seconds=20.0, seed=1)


def prunings() -> list[RandomPruning]:
    """The first FITTED are fitted to, the others predicted."""
    return [RandomPruning(number=number) for number in range(FITTED + TRIED)]


def train(shop: Workshop, model: str) -> None:
    for one in prunings():
        lowered(shop, shop.apply(one, shop.workload.original))


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    original, runtime = shop.workload.original, get(Runtime, PRICED_ON)()
    modules = [original, *(shop.apply(one, original) for one in prunings())]
    trials = [Trial(candidate=lowered(shop, module), runtime=runtime) for module in modules]
    table = WidthTable.from_json(json.loads(shop.widths(runtime).read_text()))
    race = shop.race(trials, PLAN, label="widths")
    seconds = [float(np.median(race.latency[t.id].round_medians())) for t in trials]
    layers = [layers_of(shop, module) for module in modules]
    known = 1 + FITTED
    fitted = table.fitted(zip(layers[:known], seconds[:known], strict=True))
    errors = np.array([fitted.total(sites) / real - 1 for sites, real in zip(layers[known:], seconds[known:], strict=True)])
    count = [sum(site.operations for site in sites) for sites in layers]
    by_count = np.array(count[known:]) * seconds[0] / count[0] / np.array(seconds[known:]) - 1
    return {
        "runtime": figure(runtime.step().text),
        "within_10_percent_of_20": figure(int((np.abs(errors) <= 0.10).sum()), at_least=TRIED),
        "largest_error": figure(float(np.abs(errors).max()), at_most=0.10),
        "median_error": figure(float(np.median(np.abs(errors)))),
        "median_error_of_counting_multiply_adds": figure(float(np.median(np.abs(by_count)))),
        "fastest_over_original": figure(seconds[0] / min(seconds[known:])),
        "overhead_seconds": figure(fitted.overhead_seconds),
        "scale": figure(fitted.scale),
    }


def layers_of(shop: Workshop, module: Candidate) -> list[Site]:
    import torch

    arrays = [np.array(np.load(path, mmap_mode="r")[:2]) for path in shop.tensors("calibrate").values()]
    return list(find_sites(read_module(module.path), [torch.from_numpy(a) for a in arrays]).values())


if __name__ == "__main__":
    run("train-widths", "latency from the width table", measure, train)
