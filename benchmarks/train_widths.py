"""The width table: how near the latency that it predicts is to what is measured, for 20 random prunings.

    make bench-train-widths

The table is measured layer by layer, every width of every place in the network. Five whole programs (the original and four other random
prunings) say what a call takes beside its layers. Predictions are made for 20 prunings that nothing was fitted to. Nothing is trained:
weights do not change what a width takes.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
from common import BUNDLES, Figures, figure
from training import PRICED_ON, ready, run, traced

from hasten.core.candidate import Candidate, Step
from hasten.core.registry import get
from hasten.core.seams import Runtime
from hasten.core.trial import Trial
from hasten.core.widths import Site, WidthTable
from hasten.measure.latency import Plan
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop
from hasten.train.cut import Cut, find_groups, find_sites
from hasten.train.lift import read_module
from hasten.train.shapes import fixed, heads

TRIED, FITTED = 20, 4
LEAST, MULTIPLE = 0.25, 4
"""A group of channels keeps a share between LEAST and all, in multiples of MULTIPLE."""
PLAN = Plan(blocks=2, rounds=10, block_seconds=15.0, warm_up_seconds=0.3, seed=1)


def train(shop: Workshop, model: str) -> None:
    runtime = get(Runtime, PRICED_ON)()
    ready(shop, [Trial(candidate=graph, runtime=runtime) for graph, _ in all_pruned(shop, model)])


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    runtime = get(Runtime, PRICED_ON)()
    made = all_pruned(shop, model)
    trials, layers = [Trial(candidate=graph, runtime=runtime) for graph, _ in made], [sites for _, sites in made]
    table = WidthTable.from_json(json.loads(shop.widths(runtime).read_text()))
    race = shop.race(trials, PLAN, label="widths")
    seconds = [float(np.median(race.latency[t.id].round_medians())) for t in trials]
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
        "slowest_over_original": figure(seconds[0] / max(seconds[known:])),
        "overhead_seconds": figure(fitted.overhead_seconds),
        "scale": figure(fitted.scale),
    }


def all_pruned(shop: Workshop, model: str) -> list[tuple[Candidate, list[Site]]]:
    return [pruned(shop, number, BUNDLES / "widths" / model) for number in range(1 + FITTED + TRIED)]


def pruned(shop: Workshop, number: int, folder: Path) -> tuple[Candidate, list[Site]]:
    """The graph of a random pruning, and its layers; number 0 is the original."""
    import torch
    import torch_pruning

    original = shop.workload.original
    example = [torch.from_numpy(np.array(np.load(path, mmap_mode="r")[:2])) for path in shop.tensors("calibrate").values()]
    module = copy.deepcopy(read_module(original.path))
    groups = find_groups(module, example, torch_pruning.importance.GroupMagnitudeImportance(), fixed(module), heads(module))
    rng = np.random.default_rng(number)
    for group in groups if number else ():
        kept = rng.uniform(LEAST, 1.0) * len(group.scores)
        group.gone = len(group.scores) - min(len(group.scores), max(MULTIPLE, round(kept / MULTIPLE) * MULTIPLE))
    Cut(find_sites(module, example), groups, None).make()
    graph = traced(module, example, original, Step(name="random-pruning", options={"number": number}), folder / str(number))
    return graph, list(find_sites(module, example).values())


if __name__ == "__main__":
    run("train-widths", "latency from the width table", measure, train)
