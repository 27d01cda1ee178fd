"""Structured pruning alone: what 30, 50 and 70 % fewer parameters are worth, and what they cost; beside Torch-Pruning's own example.

    make bench-train-pruning
    python benchmarks/train_pruning.py --only resnet20 --train       # hours of training first, when nothing needs to be quiet

For each model and share: the technique `structured-pruning` cuts and trains, the student is exported and simplified, and raced in the
runtimes against the fastest lossless program of the original, in one interleaved race with five sets of fresh processes. The loss is
judged on the certify split, one-sided 95 %, as hasten judges its own answers. Finished work is kept under out/bench/stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import Figures, figure
from rival_pruning import TorchPruningExample
from training import Goals, compared, lowered, programs, ready, run

from hasten.core.registry import get
from hasten.core.seams import Technique
from hasten.core.trial import Trial
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

GOALS: Mapping[float, Goals] = {0.3: (0.65, 1.3, 0.5), 0.5: (0.48, 1.7, 1.0), 0.7: (0.25, 2.5, 2.0)}
"""Share of the parameters that is cut -> goals: size over the original's, speed over the fastest lossless program, points lost."""
OPTIONS: Mapping[str, Mapping[float, Mapping[str, Any]]] = {
    "wide-resnet20": {
        0.3: {"share": 0.36, "time_share": 0.3, "epochs": 2},
        0.5: {"share": 0.53, "time_share": 0.5, "epochs": 2},
        0.7: {"share": 0.9, "time_share": 0.85, "blocks": 3, "epochs": 4},
    },
    "mobilenetv2": {
        0.3: {"share": 0.37, "time_share": 0.3, "epochs": 2},
        0.5: {"share": 0.54, "time_share": 0.46, "blocks": 1, "epochs": 2},
        0.7: {"share": 0.82, "time_share": 0.74, "blocks": 2, "epochs": 5},
    },
    "vit": {
        0.3: {"share": 0.36, "time_share": 0.3, "blocks": 3, "epochs": 2},
        0.5: {"share": 0.53, "time_share": 0.46, "blocks": 5, "epochs": 2},
        0.7: {"share": 0.89, "time_share": 0.88, "blocks": 9, "epochs": 7},
    },
    "resnet20": {
        0.3: {"share": 0.36, "time_share": 0.25, "blocks": 2, "epochs": 6},
        0.5: {"share": 0.53, "time_share": 0.42, "blocks": 3, "epochs": 8},
        0.7: {"share": 0.76, "time_share": 0.62, "blocks": 4, "epochs": 12},
    },
}
"""A size that is 35 % less wants more than 30 % of the parameters gone. ResNet-20's narrow widths are as narrow as a kernel is wide: its
time goes with whole blocks. The 0.7 of each is what `train_chain` makes int8 of."""
RIVAL_SHARE, RIVAL_MODELS = 0.5, ("wide-resnet20",)


def technique(model: str, share: float) -> Technique:
    return get(Technique, "structured-pruning")(alpha=0.5, **OPTIONS[model][share])


def rivals(model: str) -> dict[str, Technique]:
    example = TorchPruningExample(share=RIVAL_SHARE, epochs=OPTIONS[model][RIVAL_SHARE]["epochs"])
    return {"torch_pruning_example": example} if model in RIVAL_MODELS else {}


def train(shop: Workshop, model: str) -> None:
    for one in (*(technique(model, share) for share in (0.7, 0.5, 0.3)), *rivals(model).values()):
        ready(shop, students(shop, one))


def students(shop: Workshop, one: Technique) -> list[Trial]:
    return programs(shop, lowered(shop, shop.apply(one, shop.workload.original)))


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    old = programs(shop, lowered(shop, shop.workload.original))
    named = {f"{round(100 * share)}_percent": technique(model, share) for share in GOALS}
    rows = {key: (students(shop, one), goals) for (key, one), goals in zip(named.items(), GOALS.values(), strict=True)}
    rows |= {key: (students(shop, one), (None, None, None)) for key, one in rivals(model).items()}
    return {f"{key}.technique": figure(one.step().text) for key, one in named.items()} | compared(shop, judge, old, rows, label="pruning")


if __name__ == "__main__":
    run("train-pruning", "structured pruning, priced", measure, train)
