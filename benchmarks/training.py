"""What the benchmarks of training share: the models, how a student is lowered and raced, and how it is judged."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import BUNDLES, Figures, figure, finish, known_figures, prepare, told, workshop, write
from main_models import CASES, Case, why_skipped

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.errors import HastenError
from hasten.core.measurement import Interval, Measurement
from hasten.core.registry import find, get
from hasten.core.seams import Runtime, Technique
from hasten.core.trial import Trial
from hasten.measure.latency import Plan
from hasten.measure.statistics import rate_drop, ratio_interval
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

MODELS: Mapping[str, Case] = {
    "wide-resnet20": Case("examples/fashion_mnist/resnet20.toml", "", brings="fashion_mnist"),
    "mobilenetv2": Case("examples/fashion_mnist/mobilenetv2.toml", "", brings="fashion_mnist"),
    "vit": Case("examples/fashion_mnist/vit.toml", "", brings="fashion_mnist"),
    "resnet20": CASES["resnet20"],
    "mobilenetv2-96px": CASES["mobilenetv2"],
    "resnet20-few": CASES["resnet20"],
    "minilm-probe": CASES["minilm-probe"],
}
"""Name -> a job that has a train split."""
TEXT = "minilm-probe"
USUAL = ("wide-resnet20", "mobilenetv2", "vit", "resnet20")
SETTINGS: Mapping[str, Mapping[str, str]] = {name: {"data.train": "cifar10.py:few"} for name in ("mobilenetv2-96px", "resnet20-few")}
"""What differs from the job file: an epoch of all 50,000 pictures at 96 pixels would take half an hour."""
PRICED_ON, TEXT_PRICED_ON = "onnxruntime", "openvino"
"""Whose times decide what is cut: the fastest lossless runtime for those networks on the machines of docs/log.md."""
QUANTISERS = (get(Technique, "static-int8")(), get(Technique, "static-int8-nncf")())
FINAL = Plan(blocks=5, rounds=12, block_seconds=12.0, warm_up_seconds=1.0, seed=1)
Goals = tuple[float | None, float | None, float | None]
"""Size over the original's, speed over the fastest lossless program, points lost; None for no goal."""
NOTHING: Goals = (None, None, None)
PATIENCE_SECONDS = 24 * 3600.0


@contextmanager
def opened(name: str) -> Iterator[tuple[Workshop, Judge]]:
    """The workshop of a model; its store outlives the benchmark, so that a stopped one goes on."""
    source = MODELS[name].source
    prepare(source)
    store = BUNDLES / "stores" / f"train-{name}"
    settings = {"train.budget": "10h", **SETTINGS.get(name, {})}
    with workshop(source, store=store, seconds=PATIENCE_SECONDS, settings=settings) as (shop, judge):
        shop.priced_on = get(Runtime, TEXT_PRICED_ON if name == TEXT else PRICED_ON)()
        yield shop, judge


def lowered(shop: Workshop, candidate: Candidate, *more: Technique) -> Candidate:
    """The graph that ships: exported, simplified, and after `more`."""
    for technique in (get(Technique, "export-onnx")(), get(Technique, "simplify")(), *more):
        candidate = shop.apply(technique, candidate)
    return candidate


def traced(module: Any, example: Sequence[Any], original: Candidate, step: Step, folder: Path) -> Candidate:
    """The graph of a module that takes and gives what `original` does, made by `step`, in `folder`. By tracing: seconds a graph less than
    the exporter that ships what users get, and the same operators."""
    import torch

    path, signature = folder / "model.onnx", original.signature
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {name: {0: "batch"} for name in (*names[0], *names[1])}
        torch.onnx.export(
            module.eval(), tuple(example), str(path), dynamo=False, input_names=names[0], output_names=names[1], dynamic_axes=axes
        )  # fmt: skip
    return original.then(step, path, floor=Floor.GRAPH, lossless=False)


def programs(shop: Workshop, graph: Candidate) -> list[Trial]:
    """The graph on every runtime for graphs."""
    kinds = [kind() for kind in find(Runtime).values() if kind.floor is Floor.GRAPH]
    return [Trial(candidate=graph, runtime=r) for r in kinds if r.fits(graph, shop.target) is None]


def eight_bits(shop: Workshop, candidate: Candidate, quantisers: Sequence[Technique] = QUANTISERS) -> list[Trial]:
    """The module in int8 by every quantiser, on every runtime that takes it."""
    found = []
    for quantiser in quantisers:
        try:
            found += programs(shop, lowered(shop, candidate, quantiser))
        except HastenError as error:
            print(f"  {quantiser.name}: {error}")
    return found


def fastest(trials: Sequence[Trial], latency: Mapping[str, Measurement]) -> Trial:
    return min(trials, key=lambda t: float(np.median(latency[t.id].round_medians())))


def ready(shop: Workshop, trials: Sequence[Trial]) -> None:
    """Compile, so that a race has nothing left to do but to race."""
    for trial in trials:
        shop.compile(trial.runtime, trial.candidate)


def compared(
    shop: Workshop, judge: Judge, old: Sequence[Trial], rows: Mapping[str, tuple[Sequence[Trial], Goals]], *, label: str, plan: Plan = FINAL
) -> Figures:  # fmt: skip
    """All programs in one race; of each row the fastest: how many times faster than the fastest of `old`, and what it loses on certify."""
    race = shop.race([*old, *(t for trials, _ in rows.values() for t in trials)], plan, label=label)
    reference, figures = fastest(old, race.latency), {}
    for named, (trials, goals) in rows.items():
        answer = fastest(trials, race.latency)
        times = (race.latency[t.id].round_medians() for t in (reference, answer))
        speed = ratio_interval(*times, blocks=np.array(race.block_of_round))
        drop = rate_drop(*judge.rows(answer, "certify"), alpha=0.05)
        figures |= {f"{named}.{key}": one for key, one in outcome(shop, reference, answer, speed, drop, goals).items()}
        figures[f"{named}.latency_seconds"] = figure(float(np.median(race.latency[answer.id].round_medians())))
    return figures | {"others_busy": figure(race.others_busy)}


def outcome(shop: Workshop, reference: Trial, answer: Trial, speed: Interval, drop: Interval, goals: Goals) -> Figures:
    """One row."""
    smaller, faster, lost = goals
    gone = 1 - shop.count(answer.candidate)["parameters"] / shop.count(reference.candidate)["parameters"]
    sizes = [shop.compile(t.runtime, t.candidate).size_bytes for t in (answer, reference)]
    return {
        "parameters_removed": figure(gone),
        "size_over_original": figure(sizes[0] / sizes[1], at_most=smaller),
        "speed_over_lossless": figure(speed, at_least=faster),
        "drop_points": figure(drop, at_most=lost, met=None if lost is None else drop.high <= lost),
        "samples": figure(drop.n),
        "reference": figure(reference.text),
        "program": figure(answer.text),
    }


def run(name: str, description: str, measure: Any, train: Any, models: Sequence[str] = USUAL) -> None:
    """The command line of a benchmark. measure: (shop, judge, model) -> Figures; train: (shop, model), only builds what is trained."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="+", choices=models, metavar="NAME", help=", ".join(models))
    parser.add_argument("--train", action="store_true", help="train and stop: what is timed later finds its students in the store")
    arguments = parser.parse_args()
    figures = known_figures(name)
    for model in arguments.only or models:
        print(f"== {model}", flush=True)
        if sentence := why_skipped(MODELS[model]):
            print(f"  skipped: {sentence}")
            continue
        with opened(model) as (shop, judge):
            if arguments.train:
                train(shop, model)
                continue
            new = measure(shop, judge, model)
        for key, one in new.items():
            print(told(key, one), flush=True)
        figures = {key: one for key, one in figures.items() if not key.startswith(f"{model}.")}
        figures |= {f"{model}.{key}": one for key, one in new.items()}
        write(name, figures)
    if not arguments.train:
        finish(name, figures)
