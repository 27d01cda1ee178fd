"""A text encoder made shallower, narrower, taught and quantised: how much faster than the fastest lossless program, at what certified loss.

    make bench-train-text
    python benchmarks/train_text.py --train       # the training first, when nothing needs to be quiet

MiniLM with a probe for film reviews, trained on the 4,000 snippets that its probe was fitted on. `cut` is `structured-pruning` alone:
attention and MLP blocks left out, then heads and neurons cut, then taught by the original and the labels. `original_trained` is the
original, nothing cut, taught by itself and the labels for as many epochs: what the training alone is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import Figures, figure
from training import TEXT, Goals, compared, eight_bits, lowered, programs, ready, run

from hasten.core.candidate import Candidate
from hasten.core.registry import get
from hasten.core.seams import Technique
from hasten.core.trial import Trial
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

NOTHING: Goals = (None, None, None)
GOALS: Goals = (None, 3.0, 1.0)
QUANTISERS = {
    "openvino": get(Technique, "static-int8-nncf")(model_type="transformer", preset="mixed"),
    "onnxruntime": get(Technique, "dynamic-int8")(),
}
"""Each in the runtime that has kernels for its graphs: the other one runs them no faster than in float."""


TAUGHT: Mapping[str, Any] = {"epochs": 5, "alpha": 0.5}
UNCUT = {
    "original_trained": get(Technique, "distillation")(student="same", learning_rate=1e-3, **TAUGHT),
    "original_trained_gently": get(Technique, "distillation")(student="same", learning_rate=1e-4, **TAUGHT),
}
"""At the rate of what is cut, and at one that suits a network that has nothing to mend."""


def technique() -> Technique:
    return get(Technique, "structured-pruning")(share=0.7, time_share=0.7, blocks=6, **TAUGHT)


def student(shop: Workshop) -> Candidate:
    return shop.apply(technique(), shop.workload.original)


def train(shop: Workshop, model: str) -> None:
    for module in (student(shop), shop.workload.original):
        ready(shop, [*programs(shop, lowered(shop, module)), *quantised(shop, module)])
    for one in UNCUT.values():
        ready(shop, taught(shop, one))


def taught(shop: Workshop, one: Technique) -> list[Trial]:
    return programs(shop, lowered(shop, shop.apply(one, shop.workload.original)))


def quantised(shop: Workshop, module: Candidate) -> list[Trial]:
    made = eight_bits(shop, module, tuple(QUANTISERS.values()))
    return [trial for trial in made if QUANTISERS[trial.runtime.name].name in trial.candidate.recipe[-1]]


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    rows = {
        "int8_alone": (quantised(shop, shop.workload.original), NOTHING),
        "cut": (programs(shop, lowered(shop, student(shop))), NOTHING),
        "cut_int8": (quantised(shop, student(shop)), GOALS),
    }
    rows |= {named: (taught(shop, one), NOTHING) for named, one in UNCUT.items()}
    old = programs(shop, lowered(shop, shop.workload.original))
    return {"technique": figure(technique().step().text)} | compared(shop, judge, old, rows, label="text")


if __name__ == "__main__":
    run("train-text", "a text encoder cut, taught and in 8 bits", measure, train, [TEXT])
