"""Pruning, distillation and int8 together: how much faster than the fastest lossless program, at what certified loss.

    make bench-train-chain
    python benchmarks/train_chain.py --train

One student a network: cut by measured time, taught by the original, exported, quantised by both quantisers, raced on all runtimes.
"""

from __future__ import annotations

from common import Figures, figure
from train_pruning import technique
from training import compared, eight_bits, lowered, outcome, programs, run

from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

GOALS = {"wide-resnet20": (None, 5.0, 1.0), "resnet20": (None, 4.0, 1.0)}


def train(shop: Workshop, model: str) -> None:
    shop.apply(technique(model, 0.7), shop.workload.original)


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    original = shop.workload.original
    old = programs(shop, lowered(shop, original))
    student = shop.apply(technique(model, 0.7), original)
    figures: Figures = {"technique": figure(technique(model, 0.7).step().text)}
    rows = {"float": (programs(shop, lowered(shop, student)), (None, None, None)), "int8": (eight_bits(shop, student), GOALS[model])}
    for named, (new, goals) in rows.items():
        row = outcome(shop, *compared(shop, judge, old, new, label=f"chain {named}"), goals)
        figures |= {f"{named}.{key}": value for key, value in row.items()}
    return figures


if __name__ == "__main__":
    run("train-chain", "pruning, distillation and int8 together", measure, train)
