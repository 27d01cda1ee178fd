"""hasten's answer against the default int8 of ONNX Runtime and of NNCF, in one interleaved race, and each one's loss.

    make bench-main-peers                     # after make bench-main-models, whose bundles are raced
    HASTEN_DATA=/path/to/data python benchmarks/main_peers.py --only resnet20

Who runs (batch 1, two threads, each in its own process, five sets of fresh processes):

    hasten        the bundle of main-models
    ort-int8      onnxruntime.quantization.quantize_static after quant_pre_process, every option at its default, 300 samples
    ort-u8s8      the same with what its documentation advises for x86: uint8 activations, one scale a channel
    nncf-int8     nncf.quantize of the OpenVINO model, every option at its default, 300 samples, in OpenVINO
    ort-fp32, openvino-fp32, eager

A drop is paired with the original on the certify split, with one-sided 95 % bounds; "certified" means that its upper bound keeps
the job's limit. About three minutes a model.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import BUNDLES, Figures, figure, finish, known_figures, told, workshop, write
from main_models import CASES, why_skipped

from hasten.bundle.layout import PROGRAM
from hasten.bundle.read import Bundle
from hasten.core.candidate import Candidate, Step
from hasten.core.errors import HastenError
from hasten.core.machine import versions
from hasten.core.measurement import Interval
from hasten.core.registry import find
from hasten.core.seams import Runtime, Technique
from hasten.core.trial import Trial
from hasten.measure.latency import Entrant, Plan, Race, final_plan, race
from hasten.measure.statistics import needed_samples, noninferiority, rate_drop, ratio_interval
from hasten.search.judge import Judge
from hasten.search.workshop import Workshop

NAME = "main-peers"
MODELS = ("resnet20", "mobilenetv2", "efficientnet-lite0")
WITH_GOALS = ("resnet20", "mobilenetv2")
DEFAULTS = ("ort-int8", "nncf-int8")
NUM_SAMPLES = 300
ALPHA = 0.05


def quantize_by_ort(model: Path, calibration: dict[str, np.ndarray], folder: Path, *, advised: bool) -> Path:
    """quantize_static: its defaults, or the types that its documentation advises for x86."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = _samples(calibration)

        def get_next(self) -> Any:
            return next(self.samples, None)

    prepared, result = folder / "prepared.onnx", folder / "model.onnx"
    logging.disable(logging.WARNING)
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True} if advised else {}
    quantize_static(str(prepared), str(result), Reader(), **options)
    logging.disable(logging.NOTSET)
    return result


def quantize_by_nncf(model: Path, calibration: dict[str, np.ndarray], folder: Path) -> Path:
    """nncf.quantize of the OpenVINO model."""
    import nncf
    import openvino as ov

    result = folder / "model.xml"
    quantized = nncf.quantize(ov.Core().read_model(model), nncf.Dataset(list(_samples(calibration))))
    ov.save_model(quantized, result, compress_to_fp16=False)
    return result


def _samples(calibration: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    count = min(NUM_SAMPLES, *(len(array) for array in calibration.values()))
    return ({name: np.array(array[i : i + 1]) for name, array in calibration.items()} for i in range(count))


def trials(shop: Workshop, folder: Path) -> dict[str, Trial]:
    """Every program but hasten's, by name."""
    eager, ort, openvino = (find(Runtime)[name]() for name in ("eager", "onnxruntime", "openvino"))
    graph = shop.apply(find(Technique)["export-onnx"](), shop.workload.original)
    calibration = {name: np.load(path, mmap_mode="r") for name, path in shop.tensors("calibrate").items()}

    def made(name: str, make: Any, **options: Any) -> Candidate:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        print(f"  {name} is made", flush=True)
        packages = {"ort": ("onnxruntime", "onnx"), "nncf": ("nncf", "openvino")}[name.split("-")[0]]
        path = make(graph.path, calibration, place, **options)
        return graph.then(Step(name=f"peer-{name}", versions=versions(*packages)), path, lossless=False)

    return {
        "ort-int8": Trial(candidate=made("ort-int8", quantize_by_ort, advised=False), runtime=ort),
        "ort-u8s8": Trial(candidate=made("ort-u8s8", quantize_by_ort, advised=True), runtime=ort),
        "nncf-int8": Trial(candidate=made("nncf-int8", quantize_by_nncf), runtime=openvino),
        "ort-fp32": Trial(candidate=graph, runtime=ort),
        "openvino-fp32": Trial(candidate=graph, runtime=openvino),
        "eager": Trial(candidate=shop.workload.original, runtime=eager),
    }


def run_race(shop: Workshop, bundle: Bundle, programs: dict[str, Trial], plan: Plan) -> Race:
    """hasten's shipped program among the others; nothing of it comes from the store."""
    tensors = shop.tensors("select")
    entrants = [
        Entrant(key="hasten", runtime=bundle.runtime, folder=bundle.path / PROGRAM, target=bundle.target, tensors=tensors, batch_size=1)
    ]
    for name, trial in programs.items():
        folder = shop.compile(trial.runtime, trial.candidate).folder
        entrants.append(Entrant(key=name, runtime=trial.runtime, folder=folder, target=shop.target, tensors=tensors, batch_size=1))
    with shop.store.measuring():
        return race(entrants, plan, where={"machine": shop.machine.id})


def speeds(result: Race, *, with_goal: bool) -> Figures:
    """How many times faster hasten's answer is than each one. Not slower than the better default: the interval reaches 1."""
    blocks = np.array(result.block_of_round)
    rounds = {name: latency.round_medians() for name, latency in result.latency.items()}

    def over(name: str) -> Interval:
        return ratio_interval(rounds[name], rounds["hasten"], blocks=blocks)

    figures: Figures = {f"latency_seconds.{name}": figure(latency.interval()) for name, latency in result.latency.items()}
    figures |= {f"over.{name}": figure(over(name)) for name in rounds if name != "hasten"}
    better = min((over(name) for name in DEFAULTS), key=lambda ratio: ratio.value)
    goal = {"at_least": 1.0, "met": better.high >= 1} if with_goal else {}
    return {**figures, "over.better_default": figure(better, **goal), "others_busy": figure(result.others_busy)}


def losses(judge: Judge, bundle: Bundle, programs: dict[str, Trial]) -> Figures:
    """The drop of each int8 program on the certify split, and whether that is certified."""
    pairs = {name: judge.rows(trial, "certify") for name, trial in programs.items() if name.endswith(("int8", "u8s8"))}
    outcomes = next((line for line in bundle.evidence if line["kind"] == "outcomes"), None)
    if outcomes is not None:
        pairs = {"hasten": (np.array(outcomes["start"]), np.array(outcomes["answer"])), **pairs}
    figures: Figures = {}
    for name, (reference, candidate) in pairs.items():
        drop = rate_drop(reference, candidate, alpha=ALPHA)
        needed = needed_samples(reference, candidate, judge.limit, ALPHA)
        verdict = noninferiority(drop, judge.limit, alpha=ALPHA, needed=needed)
        print(f"  {name}: {verdict.reason}", flush=True)
        figures |= {f"drop_points.{name}": figure(drop), f"drop_samples.{name}": figure(drop.n), f"verdict.{name}": figure(verdict.outcome)}
    return figures


def compare(name: str, folder: Path, plan: Plan) -> Figures:
    """All figures of one model."""
    bundle = Bundle.open(BUNDLES / name)
    with workshop(CASES[name].source, store=BUNDLES / "stores" / name) as (shop, judge):
        programs = trials(shop, folder)
        figures = speeds(run_race(shop, bundle, programs, plan), with_goal=name in WITH_GOALS) | losses(judge, bundle, programs)
    if name == "resnet20":
        outcome = figures["verdict.nncf-int8"]["value"]
        figures["nncf_default_is_certified"] = figure(int(outcome == "passed"), at_most=0)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="hasten's answer against default int8 of ONNX Runtime and NNCF")
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--blocks", type=int, help="sets of fresh processes (default: as hasten optimize with 5 minutes)")
    arguments = parser.parse_args()
    default = final_plan(300.0)
    plan = Plan(blocks=arguments.blocks, rounds=default.rounds, seed=default.seed) if arguments.blocks else default
    figures = known_figures(NAME)
    for name in arguments.only or MODELS:
        print(f"== {name}", flush=True)
        if sentence := why_skipped(CASES[name]):
            print(f"  skipped: {sentence}")
            continue
        try:
            new = compare(name, BUNDLES / "peers" / name, plan)
        except HastenError as error:
            print(f"  skipped: {error} (the bundle comes from main_models.py --only {name})")
            continue
        for key, one in new.items():
            print(told(key, one))
        figures = {key: one for key, one in figures.items() if not key.startswith(f"{name}.")}
        figures |= {f"{name}.{key}": one for key, one in new.items()}
        write(NAME, figures)
    print("== all")
    finish(NAME, figures)


if __name__ == "__main__":
    main()
