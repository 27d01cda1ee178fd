"""Quantisation-aware training where rounding afterwards loses: networks of depthwise layers, with one scale for all of a weight. Beside
what the examples of NNCF and of torchao reach in the same training time.

    make bench-train-qat
    python benchmarks/train_qat.py --train

The loss is over the network in float, on the certify split. Calibration and quantiser are the same before and after. NAME_qat.drop_points
stands beside what the same quantiser loses without training, NAME_ptq.drop_points (ours: qat and ptq). The rivals' weights have one scale
for each output channel, as in their examples and as ptq_by_channel of ours; neither has a setting for one scale for all that convolutions
heed. Programs of trained networks run in one interleaved race against the fastest lossless program. Seconds of training are of the
processor, on one thread; ours count the teacher and the export too. A training that was killed counts only what it did since then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import BUNDLES, ROOT, Figures, figure
from rival_qat import Clocked, NncfExample, took
from rival_qat_torchao import TORCHAO, TorchaoExample
from rivals import PLUGINS, SEES_OURS, packages_of, python_of
from training import MODELS, eight_bits, fastest, lowered, programs, ready, run

from hasten.core.candidate import Candidate
from hasten.core.errors import HastenError
from hasten.core.job import Job
from hasten.core.measurement import Interval
from hasten.core.registry import add_plugin, get
from hasten.core.seams import Runtime, Technique
from hasten.core.trial import Trial
from hasten.measure.latency import Plan
from hasten.measure.statistics import rate_drop, ratio_interval
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

EPOCHS: Mapping[str, int] = {"mobilenetv2-96px": 2, "mobilenetv2": 1, "resnet20-few": 4}
RIVALS: Mapping[str, tuple[type[Technique], Mapping[str, Any], str, Mapping[str, Any]]] = {
    "torchao": (TorchaoExample, {}, "torch-compile", {"freezing": True}),
    "nncf": (NncfExample, {}, "openvino-ir", {}),
}
"""Name -> the example, its options, and the runtime that it is for."""
QUANTISER = get(Technique, "static-int8")(per_channel=False)
PLAN = Plan(blocks=4, rounds=12, block_seconds=8.0, warm_up_seconds=1.0, seed=1)
"""Shorter than of other benchmarks of training: Inductor's programs take long to load."""
ENOUGH = 0.1
"""Points that rounding must lose before a share of them can be recovered."""


def trained_for_int8(shop: Workshop, model: str) -> Candidate:
    return shop.apply(Clocked(per_channel=False, epochs=EPOCHS[model], alpha=0.5), shop.workload.original)


def source(model: str) -> str:
    """Where the user's module comes from, seen from the root."""
    job = Job.read(ROOT / MODELS[model].source)
    return (job.folder / str(job.model.source)).relative_to(ROOT).as_posix()


def rivals(shop: Workshop, model: str) -> dict[str, Trial]:
    """The program of each example without training (NAME_ptq) and trained for as long as ours (NAME_qat). What fails is told."""
    seconds, found = took(trained_for_int8(shop, model))["train_seconds"], {}
    for name, (kind, options, runtime, settings) in RIVALS.items():
        both = {"ptq": {"epochs": 0}, "qat": {"epochs": EPOCHS[model], "seconds": seconds}}
        for end, more in both.items():
            try:
                made = shop.apply(kind(source=source(model), **options, **more), shop.workload.original)
                trial = Trial(candidate=made, runtime=get(Runtime, runtime)(**settings))
                ready(shop, [trial])
            except HastenError as error:
                print(f"  {name}_{end}: {error}", flush=True)
                continue
            found[f"{name}_{end}"] = trial
    return found


def known_runtimes() -> None:
    """Those of the rivals' programs, and where torchao is."""
    for plugin in PLUGINS:
        add_plugin(plugin)
    root = BUNDLES.parent / "peers"
    python_of(SEES_OURS, root)
    os.environ[TORCHAO] = str(packages_of(SEES_OURS, root))


def train(shop: Workshop, model: str) -> None:
    known_runtimes()
    ready(shop, [trial for trials in ours(shop, model).values() for trial in trials])
    rivals(shop, model)


def ours(shop: Workshop, model: str) -> dict[str, list[Trial]]:
    plain = shop.workload.original
    return {
        "float": programs(shop, lowered(shop, plain)),
        "ptq": eight_bits(shop, plain, [QUANTISER]),
        "qat": eight_bits(shop, trained_for_int8(shop, model), [QUANTISER]),
        "ptq_by_channel": eight_bits(shop, plain, [get(Technique, "static-int8")()]),
    }


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    known_runtimes()
    made, others = ours(shop, model), rivals(shop, model)
    judged = {named: _onnxruntime(trials) for named, trials in made.items()} | others
    kept = {named: judge.rows(trial, "certify")[1] for named, trial in judged.items()}
    drop: dict[str, Interval] = {named: rate_drop(kept["float"], right, alpha=0.05) for named, right in kept.items() if named != "float"}
    figures = {f"{named}.drop_points": figure(one) for named, one in drop.items()}
    figures |= speeds(shop, made["float"], {"qat": made["qat"]} | {named: [t] for named, t in others.items() if named.endswith("qat")})
    trained = {"qat": trained_for_int8(shop, model), **{named: t.candidate for named, t in others.items() if named.endswith("qat")}}
    for named, candidate in trained.items():
        figures |= {f"{named}.{key}": figure(value) for key, value in took(candidate).items()}
        before = drop.get(f"{named.removesuffix('qat')}ptq")
        if before is not None and before.value >= ENOUGH:
            figures[f"{named}.recovered_share"] = figure(1 - drop[named].value / before.value)
    figures["float.accuracy"] = figure(float(kept["float"].mean()))
    figures["ptq_loses_more_than_half_a_point"] = figure(drop["ptq"].value, at_least=0.5)
    if drop["ptq"].value >= ENOUGH:
        figures["recovered_share"] = figure(1 - drop["qat"].value / drop["ptq"].value, at_least=0.5)
    return figures


def speeds(shop: Workshop, old: Sequence[Trial], rows: Mapping[str, Sequence[Trial]]) -> Figures:
    """All programs in one race; of each row the fastest: how many times faster than the fastest of `old`."""
    race = shop.race([*old, *(t for trials in rows.values() for t in trials)], PLAN, label="qat")
    reference, figures = fastest(old, race.latency), {"others_busy": figure(race.others_busy)}
    for named, trials in rows.items():
        answer = fastest(trials, race.latency)
        times = (race.latency[t.id].round_medians() for t in (reference, answer))
        speed = ratio_interval(*times, blocks=np.array(race.block_of_round))
        figures |= {f"{named}.speed_over_lossless": figure(speed), f"{named}.program": figure(answer.text)}
    return figures


def _onnxruntime(trials: list[Trial]) -> Trial:
    """The program whose quantiser was made for its runtime: what is judged of ours."""
    return next(trial for trial in trials if trial.runtime.name == "onnxruntime")


if __name__ == "__main__":
    run("train-qat", "quantisation-aware training where rounding afterwards loses", measure, train, models=list(EPOCHS))
