"""Pruning, distillation and int8 together: how much faster than the fastest lossless program, at what certified loss.

    make bench-train-chain
    python benchmarks/train_chain.py --train

One student a network: cut by measured time, taught by the original, exported, quantised by both quantisers, raced on all runtimes.
"""

from __future__ import annotations

from common import Figures, figure
from train_pruning import technique
from training import Goals, compared, eight_bits, lowered, programs, ready, run

from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

NOTHING: Goals = (None, None, None)
GOALS: dict[str, Goals] = {"wide-resnet20": (None, 5.0, 1.0), "mobilenetv2": (None, 4.0, 1.0), "resnet20": (None, 4.0, 1.0)}


def train(shop: Workshop, model: str) -> None:
    student = shop.apply(technique(model, 0.7), shop.workload.original)
    ready(shop, [*programs(shop, lowered(shop, student)), *eight_bits(shop, student)])


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    original = shop.workload.original
    student = shop.apply(technique(model, 0.7), original)
    rows = {
        "int8_alone": (eight_bits(shop, original), NOTHING),
        "pruned": (programs(shop, lowered(shop, student)), NOTHING),
        "pruned_int8": (eight_bits(shop, student), GOALS[model]),
    }
    old = programs(shop, lowered(shop, original))
    return {"technique": figure(technique(model, 0.7).step().text)} | compared(shop, judge, old, rows, label="chain")


if __name__ == "__main__":
    run("train-chain", "pruning, distillation and int8 together", measure, train)
