"""Quantisation-aware training where rounding afterwards loses: networks of depthwise layers, with one scale for all of a weight.

    make bench-train-qat
    python benchmarks/train_qat.py --train

The loss is over the network in float, on the certify split. Calibration and quantiser are the same before and after.
"""

from __future__ import annotations

from collections.abc import Mapping

from common import Figures, figure
from training import lowered, run

from hasten.core.candidate import Candidate
from hasten.core.measurement import Interval
from hasten.core.registry import get
from hasten.core.seams import Runtime, Technique
from hasten.core.trial import Trial
from hasten.measure.statistics import rate_drop
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

EPOCHS: Mapping[str, int] = {"mobilenetv2-96px": 2, "mobilenetv2": 1}


def trained_for_int8(shop: Workshop, model: str) -> Candidate:
    return shop.apply(get(Technique, "qat-int8")(per_channel=False, epochs=EPOCHS[model], alpha=0.5), shop.workload.original)


def train(shop: Workshop, model: str) -> None:
    trained_for_int8(shop, model)


def measure(shop: Workshop, judge: Judge, model: str) -> Figures:
    runtime, quantiser = get(Runtime, "onnxruntime")(), get(Technique, "static-int8")(per_channel=False)
    plain = shop.workload.original
    rows = {
        "float": Trial(candidate=lowered(shop, plain), runtime=runtime),
        "ptq": Trial(candidate=lowered(shop, plain, quantiser), runtime=runtime),
        "qat": Trial(candidate=lowered(shop, trained_for_int8(shop, model), quantiser), runtime=runtime),
        "ptq_by_channel": Trial(candidate=lowered(shop, plain, get(Technique, "static-int8")()), runtime=runtime),
    }
    kept = {named: judge.rows(trial, "certify")[1] for named, trial in rows.items()}
    drop: dict[str, Interval] = {named: rate_drop(kept["float"], right, alpha=0.05) for named, right in kept.items() if named != "float"}
    figures = {f"{named}.drop_points": figure(one) for named, one in drop.items()}
    figures["float.accuracy"] = figure(float(kept["float"].mean()))
    figures["ptq_loses_more_than_half_a_point"] = figure(drop["ptq"].value, at_least=0.5)
    figures["recovered_share"] = figure(1 - drop["qat"].value / drop["ptq"].value, at_least=0.5)
    return figures


if __name__ == "__main__":
    run("train-qat", "quantisation-aware training where rounding afterwards loses", measure, train, models=list(EPOCHS))
