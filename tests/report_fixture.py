"""A synthetic run, told as evidence: what a search over MobileNetV2 on two cores could have written.

Every interval is computed from the raw samples that stand beside it, so the report has something honest to show.
"""

from __future__ import annotations

import base64
import functools
import io
from typing import Any

import numpy as np
from PIL import Image

from hasten.core.measurement import Measurement

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUM_CERTIFY = 6000

# id, recipe, runtime, knobs, milliseconds, drop in points, bytes, peak bytes, fate, reason
_PROGRAMS: tuple[tuple[Any, ...], ...] = (
    ("a0", [], "eager", {}, 12.8, 0.0, 9_120_000, 361e6, "start",
     "The model as it came."),
    ("b1", ["export", "simplify"], "onnxruntime", {"threads": 2}, 1.46, 0.0, 8_950_000, 96e6, "reference",
     "The fastest lossless program."),
    ("b2", ["export", "simplify"], "openvino", {"threads": 2}, 1.68, 0.0, 8_990_000, 128e6, "lost",
     "1.15x slower than the reference."),
    ("b3", ["export"], "onnxruntime", {"threads": 2}, 1.51, 0.0, 9_080_000, 98e6, "lost",
     "No faster than the reference: the difference is inside the noise."),
    ("b4", ["export", "simplify"], "onnxruntime", {"threads": 1}, 2.31, 0.0, 8_950_000, 91e6, "lost",
     "1.58x slower than the reference."),
    ("c1", ["export", "simplify", "static-int8(calibration=minmax)"], "onnxruntime", {"threads": 2}, 0.85, 0.03, 2_480_000, 71e6, "answer",
     "1.72x faster than the reference; the drop is at most 0.15 points."),
    ("c2", ["export", "simplify", "static-int8(calibration=percentile)"], "onnxruntime", {"threads": 2},
     0.86, 0.12, 2_480_000, 71e6, "passed",
     "Keeps the limits, but is no faster than the answer."),
    ("c3", ["export", "simplify", "static-int8(calibration=entropy)"], "onnxruntime", {"threads": 2},
     0.85, 0.36, 2_480_000, 72e6, "promising",
     "Undecided: 6,000 samples leave the drop between 0.16 and 0.56; about 14,200 would decide."),
    ("c4", ["export", "simplify", "nncf-int8"], "openvino", {"threads": 2}, 1.10, 0.04, 2_510_000, 104e6, "passed",
     "Keeps the limits, but is 1.29x slower than the answer."),
    ("c5", ["export", "simplify", "nncf-int8(preset=mixed)"], "openvino", {"threads": 2}, 1.12, 0.55, 2_510_000, 104e6, "lost",
     "Surely over the limit after 1,500 samples: the drop is at least 0.51 points."),
    ("c6", ["export", "simplify", "static-int8(weights=per-tensor)"], "onnxruntime", {"threads": 2}, 0.84, 14.3, 2_440_000, 71e6, "lost",
     "Surely over the limit after 200 samples: the drop is at least 9.8 points."),
    ("d1", ["export", "simplify", "dynamic-int8"], "onnxruntime", {"threads": 2}, 4.9, 0.02, 2_520_000, 84e6, "lost",
     "3.36x slower than the reference."),
    ("d2", ["export", "simplify", "float16"], "openvino", {"threads": 2}, 1.71, 0.01, 4_520_000, 131e6, "lost",
     "1.17x slower than the reference."),
    ("e1", ["export", "simplify", "nncf-int8(fast_bias_correction=False)"],
     "openvino", {"threads": 2, "hint": "throughput"}, None, None, 0, None, "failed",
     "the worker ran out of memory after 41 s.\nMemoryError: Unable to allocate 1.17 GiB for an array with shape (300, 96, 112, 112)"),
)  # fmt: skip


def evidence(*, seed: int = 7) -> list[dict[str, Any]]:
    """The records of evidence.jsonl, in the order in which a run writes them."""
    rng = np.random.default_rng(seed)
    measured = _measured()
    outcomes = _outcomes(rng)
    trials = [_trial(p, measured) for p in _PROGRAMS]
    records: list[dict[str, Any]] = [_run(), *trials]
    final = ("a0", "b1", "c1", "c2", "c3")
    records += [{"kind": "measurement", "trial": key, "stage": "final", **measured[key].to_json()} for key in final]
    records += [
        {"kind": "measurement", "trial": key, "stage": "explore", "metric": "throughput", "unit": "samples/s",
         "samples": [base * gain * f for f in (0.99, 1.0, 1.01)], "groups": [], "cpu_seconds": [],
         "method": {"batch_size": batch}, "where": {}}
        for key, base in (("a0", 78.0), ("b1", 685.0), ("c1", 1176.0))
        for batch, gain in ((1, 1.0), (4, 1.31), (16, 1.52), (64, 1.44))
    ]  # fmt: skip
    records += [
        {"kind": "decision", "seconds": s, "what": what, "why": why, "learnt": learnt}
        for s, what, why, learnt in (
            (0.0, "Asked the machine", "The recipes depend on its instructions", "AVX2 without VNNI: u8s8 may saturate"),
            (11.2, "Exported the model to ONNX", "Every runtime but eager reads it", "Outputs agree to 1.2e-06"),
            (31.8, "Timed the lossless programs", "The fastest is what must be beaten", "onnxruntime with 2 threads: 1.46 ms"),
            (
                64.0,
                "Quantised with min-max calibration",
                "Expected 1.6x, the most per second of work",
                "1.72x faster; no drop seen in 1,500 samples",
            ),
            (97.3, "Rejected per-tensor weights early", "Sure after 200 samples", "Depthwise layers need a scale for each channel"),
            (170.4, "Took two candidates to the untouched split", "Order fixed by speed", "The first one passed"),
        )
    ]
    records += [
        {"kind": "decision", "seconds": s, "what": what, "why": "promises most per second", "learnt": "",
         "forecast": {"speedup": promised, "low": promised / 1.3, "high": promised * 1.3, "right": 0.75, "seconds": 20.0},
         "outcome": {"speedup": came, "right": 1.0, "seconds": 18.0}}
        for s, what, promised, came in ((64.5, "export > simplify > static-int8 > onnxruntime", 1.6, 1.72),
                                        (80.0, "export > simplify > static-int8 > openvino", 1.9, 1.2))
    ]  # fmt: skip
    records += _disagreements(rng)
    records.append({"kind": "outcomes", "split": "certify", "metric": "accuracy", **outcomes})
    records.append({"kind": "answer", **answer()})
    return records


def answer() -> dict[str, Any]:
    """The document that `hasten optimize --json` prints."""
    return {
        "verdict": "passed",
        "reason": "1.72x faster than the reference; the drop is at most 0.15 points, 0.5 are allowed.",
        "answer": {
            "id": "c1", "recipe": ["export", "simplify", "static-int8(calibration=minmax)"], "runtime": "onnxruntime",
            "size_bytes": 2_480_000, "peak_memory_bytes": 71_000_000, "latency_seconds": _measured()["c1"].interval().to_json(),
        },
        "speedup": {"over_start": _ratio(_measured()["a0"], _measured()["c1"]),
                    "over_lossless": _ratio(_measured()["b1"], _measured()["c1"])},
        "drop_points": {"value": 0.03, "low": -0.09, "high": 0.15, "n": NUM_CERTIFY},
        "bundle": "out/mobilenet", "report": "out/mobilenet/report.html",
        "account_seconds": _ACCOUNT,
    }  # fmt: skip


def manifest() -> dict[str, Any]:
    """A bundle's manifest, as far as the report reads it."""
    tensor = {"dtype": "float32", "shape": [None, 3, 96, 96]}
    return {
        "model_name": "MobileNetV2",
        "created": "2026-11-21T22:40:12+00:00",
        "answer": answer(),
        "runtime": "onnxruntime",
        "knobs": {"threads": 2},
        "recipe": ["export", "simplify", "static-int8(calibration=minmax)"],
        "signature": {"inputs": [{"name": "image", **tensor}], "outputs": [{"name": "logits", "dtype": "float32", "shape": [None, 10]}]},
        "limits": {"max_drop": 0.5, "latency_ms": None, "size_mb": None, "memory_mb": None},
    }


def minimal() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The least that a run leaves: no labels, nothing faster, one trial, no race."""
    document = {
        "verdict": "reference", "reason": "", "answer": {"id": "a", "recipe": [], "runtime": "onnxruntime", "size_bytes": 1200,
        "peak_memory_bytes": None, "latency_seconds": None}, "speedup": None, "drop_points": None, "account_seconds": {},
    }  # fmt: skip
    trial = {
        "kind": "trial", "id": "a", "text": "onnxruntime", "recipe": [], "runtime": "onnxruntime", "knobs": {}, "facts": [],
        "lossless": True, "fate": "start", "reason": "", "on_front": True, "size_bytes": 1200, "peak_memory_bytes": None, "latency": None,
        "throughput": None, "best_batch": None, "speedup": None, "drop": None, "quality": {}, "verdict": None,
    }  # fmt: skip
    return {"model_name": "tiny", "created": "2026-11-21", "answer": document}, [trial]


_ACCOUNT = {
    "export": 11.2, "build": 38.6, "compile": 7.9, "timing": 66.1, "quality": 41.3, "certification": 14.8, "search": 5.2, "other": 4.1,
}  # fmt: skip


def _run() -> dict[str, Any]:
    return {
        "kind": "run",
        "command": "hasten optimize examples/mobilenet/job.toml --out out/mobilenet --budget 5m",
        "job": {"model": {"source": "model.py:mobilenet"}},
        "machine": {"id": "4f0c", "text": "AMD EPYC 7B13, 2 cores, 24 GiB, avx2 fma f16c", "cpu": "AMD EPYC 7B13", "cores": 2,
                    "memory_bytes": 24 * 2**30, "flags": ["avx2", "fma", "f16c"], "system": "Linux", "arch": "x86_64"},
        "versions": {"hasten": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "torch": "2.13.0", "onnx": "1.23.2", "onnxruntime": "1.31.1",
                     "openvino": "2026.4.1", "nncf": "3.4.0", "onnxslim": "0.1.98"},
        "started": "2026-11-21T22:36:58+00:00", "budget_seconds": 300.0, "account_seconds": _ACCOUNT,
        "load": {"before": 0.2, "after": 0.4, "busy": False,
                 "sentence": "The machine was quiet: other processes took 1.2 % of it while programs were timed."},
        "metric": "accuracy", "labelled": True, "objective": "latency", "limits": {"max_drop": 0.5, "latency_ms": None},
        "threads": 2, "batch_size": 1, "num_samples": {"calibrate": 1000, "select": 3000, "certify": NUM_CERTIFY},
        "noise_floor": {"value": 1.001, "low": 0.991, "high": 1.012}, "model_name": "MobileNetV2",
        "flops": 61_200_000, "parameters": 2_236_682,
    }  # fmt: skip


@functools.cache
def _measured() -> dict[str, Measurement]:
    """Latency of every program: a drift that all share, and what each round adds to each."""
    rng = np.random.default_rng(11)
    drift = 1 + 0.012 * np.sin(np.linspace(0, 5, 40))
    return {p[0]: _latency(rng, p[4] * 1e-3, drift * (1 + rng.normal(0, 0.018, 40))) for p in _PROGRAMS if p[4]}


def _latency(rng: np.random.Generator, seconds: float, per_round: np.ndarray) -> Measurement:
    groups = np.repeat(np.arange(len(per_round)), 9)
    samples = seconds * per_round[groups] * (1 + rng.gamma(1.2, 0.008, len(groups)))
    return Measurement(
        metric="latency",
        unit="s",
        samples=tuple(float(f"{s:.4g}") for s in samples),
        groups=tuple(int(g) for g in groups),
        cpu_seconds=tuple(float(f"{2 * s:.4g}") for s in samples),
        method={
            "how": "interleaved rounds of wall-clock timed calls",
            "blocks": 4,
            "rounds": 10,
            "block_of_round": [g // 10 for g in range(40)],
            "slice_seconds": 0.06,
            "batch_size": 1,
            "threads": 2,
            "warm_up": [{"runs": 85, "seconds": 0.31, "best": seconds}],
        },
    )


def _trial(program: tuple[Any, ...], measured: dict[str, Measurement]) -> dict[str, Any]:
    key, recipe, runtime, knobs, _, drop, size_bytes, peak, fate, reason = program
    shown = "(" + ", ".join(f"{k}={v}" for k, v in knobs.items()) + ")" if knobs else ""
    latency = measured[key].interval().to_json() if key in measured else None
    ratio = _ratio(measured["b1"], measured[key]) if key in measured else None
    lossy = any("int8" in step or step == "float16" for step in recipe)
    num, width = {"c5": (1500, 0.28), "c6": (200, 4.4)}.get(key, (3000, 0.17))
    return {
        "kind": "trial", "id": key, "text": " > ".join([*recipe, runtime + shown]), "recipe": recipe, "runtime": runtime, "knobs": knobs,
        "facts": ["int8-weights"] if lossy else [], "lossless": not lossy, "fate": fate, "reason": reason, "on_front": key in ("b1", "c1"),
        "size_bytes": size_bytes or None, "peak_memory_bytes": peak, "latency": latency,
        "throughput": {"a0": {"value": 119.0, "low": 117.2, "high": 120.9}, "b1": {"value": 1041.0, "low": 1028.0, "high": 1052.0},
                       "c1": {"value": 1788.0, "low": 1755.0, "high": 1803.0}}.get(key),
        "best_batch": 16 if key in ("a0", "b1", "c1") else None, "speedup": ratio,
        "drop": {"value": drop, "low": drop - width, "high": drop + width, "n": num} if lossy and drop is not None else None,
        "quality": {"accuracy": 0.9406 - (drop or 0) / 100} if key in measured else {},
        "verdict": {"outcome": "passed", "reason": reason, "drop": answer()["drop_points"], "limit": 0.5, "alpha": 0.025,
                    "needed_samples": None, "method": "paired score interval for the difference of two rates"} if key == "c1" else None,
    }  # fmt: skip


def _ratio(base: Measurement, other: Measurement) -> dict[str, float]:
    ratios = np.sort(base.round_medians() / other.round_medians())
    return {"value": float(np.median(ratios)), "low": float(ratios[12]), "high": float(ratios[27])}


def _outcomes(rng: np.random.Generator) -> dict[str, list[int]]:
    start = (rng.random(NUM_CERTIFY) < 0.9406).astype(int)
    result = start.copy()
    result[rng.choice(np.flatnonzero(start == 1), 31, replace=False)] = 0
    result[rng.choice(np.flatnonzero(start == 0), 29, replace=False)] = 1
    return {"start": start.tolist(), "answer": result.tolist()}


def _disagreements(rng: np.random.Generator) -> list[dict[str, Any]]:
    records = []
    for place in range(16):
        label, other, third = rng.choice(len(CLASSES), 3, replace=False)
        start, new = ((label, other), (other, label), (other, third))[place % 3]
        records.append({
            "kind": "disagreement", "index": int(rng.integers(NUM_CERTIFY)), "label": CLASSES[label],
            "start": CLASSES[start], "answer": CLASSES[new],
            "confidence_start": float(rng.uniform(0.4, 0.7)), "confidence_answer": float(rng.uniform(0.4, 0.7)), "picture": _picture(rng),
        })  # fmt: skip
    return records


def _picture(rng: np.random.Generator) -> str:
    coarse = rng.integers(30, 225, (5, 5, 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()
