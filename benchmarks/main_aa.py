"""A/A: a program raced against itself, again and again. How often does the 95 % interval of the ratio contain 1?

    make bench-main-aa
    python benchmarks/main_aa.py --times 20

Each repeat is the final race of `hasten optimize` with two entrants of one program (ONNX Runtime), in fresh processes. About 15 s a repeat.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from common import BUNDLES, figure, finish, prepare, workshop
from scipy import stats

from hasten.core.registry import find
from hasten.core.seams import Runtime, Technique
from hasten.measure.latency import Entrant, final_plan, race
from hasten.measure.statistics import ratio_interval

SOURCES = {"digits": "examples/digits/job.toml", "resnet20": "examples/cifar10/resnet20.toml"}
GOAL = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description="A/A: a program raced against itself")
    parser.add_argument("--times", type=int, default=20, metavar="N", help="repeats (default: %(default)s)")
    parser.add_argument("--model", choices=SOURCES, default="digits")
    parser.add_argument("--blocks", type=int, help="sets of fresh processes in each race (default: as hasten optimize with 5 minutes)")
    arguments = parser.parse_args()
    source = SOURCES[arguments.model]
    plan = final_plan(300.0)
    if arguments.blocks:
        plan = replace(plan, blocks=arguments.blocks)
    prepare(source)
    ratios, busy = [], 0.0
    with workshop(source, store=BUNDLES / "stores" / f"aa-{arguments.model}") as (shop, _):
        graph = shop.apply(find(Technique)["export-onnx"](), shop.workload.original)
        runtime = find(Runtime)["onnxruntime"]()
        folder, tensors = shop.compile(runtime, graph).folder, shop.tensors("select")
        twins = [Entrant(key=k, runtime=runtime, folder=folder, target=shop.target, tensors=tensors, batch_size=1) for k in "ab"]
        for repeat in range(arguments.times):
            with shop.store.measuring():
                result = race(twins, replace(plan, seed=repeat), where={"machine": shop.machine.id})
            a, b = (result.latency[k].round_medians() for k in "ab")
            ratio = ratio_interval(a, b, blocks=np.array(result.block_of_round))
            busy = max(busy, result.others_busy or 0.0)
            ratios.append(ratio)
            inside = "contains 1" if ratio.low <= 1 <= ratio.high else "DOES NOT contain 1"
            print(f"{repeat + 1:3} {ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f}) {inside}", flush=True)
    hits = sum(r.low <= 1 <= r.high for r in ratios)
    wilson = stats.binomtest(hits, len(ratios)).proportion_ci(method="wilson")
    widths = [float(np.sqrt(r.high / r.low)) for r in ratios]
    finish(
        "main-aa",
        {
            "contains_one_share": figure(hits / len(ratios), wilson.low, wilson.high, at_least=GOAL),
            "repeats": figure(len(ratios)),
            "ratio_off_by": figure(float(np.median([np.exp(abs(np.log(r.value))) for r in ratios]))),
            "interval_half_width": figure(float(np.median(widths)), min(widths), max(widths)),
            "others_busy": figure(busy),
            "model": figure(arguments.model),
        },
    )


if __name__ == "__main__":
    main()
