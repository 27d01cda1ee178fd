"""Pruning, distillation and int8 together: how much faster than the fastest lossless program, at what certified loss.

    make bench-train-chain
    python benchmarks/train_chain.py --train

One student a network: cut by measured time, taught by the original, exported, quantised by both quantisers, raced on all runtimes.
"""

from __future__ import annotations

from common import Figures, figure
from train_pruning import technique
from train_text import QUANTISERS as TRANSFORMERS
from training import NOTHING, QUANTISERS, Goals, compared, eight_bits, lowered, programs, ready, run

from hasten.core.candidate import Candidate
from hasten.core.trial import Trial
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

SECOND: Goals = (None, 4.0, 1.0)
GOALS: dict[str, Goals] = {"wide-resnet20": (None, 5.0, 1.0), "mobilenetv2": SECOND, "vit": SECOND, "resnet20": SECOND}


def quantised(shop: Workshop, model: str, module: Candidate) -> list[Trial]:
    return eight_bits(shop, module, tuple(TRANSFORMERS.values()) if model == "vit" else QUANTISERS)


def train(shop: Workshop, model: str) -> None:
    student = shop.apply(technique(model, 0.7), shop.workload.original)
    ready(shop, [*programs(shop, lowered(shop, student)), *quantised(shop, model, student)])


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    original = shop.workload.original
    student = shop.apply(technique(model, 0.7), original)
    rows = {
        "int8_alone": (quantised(shop, model, original), NOTHING),
        "pruned": (programs(shop, lowered(shop, student)), NOTHING),
        "pruned_int8": (quantised(shop, model, student), GOALS[model]),
    }
    old = programs(shop, lowered(shop, original))
    return {"technique": figure(technique(model, 0.7).step().text)} | compared(shop, judge, old, rows, label="chain")


if __name__ == "__main__":
    run("train-chain", "pruning, distillation and int8 together", measure, train)
