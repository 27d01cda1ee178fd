"""Olive's `run` on the ONNX model, on the CPU.

default   one pass, OnnxStaticQuantization, every option at its default
best      its search: fusions for transformers where the model is one, then OnnxQuantization with all that Olive may try (static or dynamic,
          per channel, 7 bits, formats, calibrations), 12 tries by TPE; the accuracy on select may fall by the limit, latency decides
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from _peer import Made, NotMade, Request, main, read_request
from olive.data.registry import Registry
from olive.workflows import run

NUM_SAMPLES = 300
JUDGED = "HASTEN_JUDGED_OUTPUT"
TRIES = 12
SEARCH_SECONDS = 300
SHOWN = ("quant_mode", "precision", "activation_type", "per_channel", "reduce_range", "calibrate_method", "quant_format")


class Samples(torch.utils.data.Dataset[Any]):
    """A split, (inputs, label), as Olive's data loader wants it; calibrate has no labels."""

    def __init__(self, request: Request, split: str) -> None:
        count = NUM_SAMPLES if split == "calibrate" else None
        self._samples = [{name: array[0] for name, array in sample.items()} for sample in request.samples(split, count)]
        self._labels = request.labels() if split == "select" else np.zeros(len(self._samples), np.int64)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._samples[index], int(self._labels[index])


@Registry.register_dataset()
def split_of(request: str, split: str, **_: Any) -> Samples:
    """Olive finds it by its name. request: "INPUTS;OUT"."""
    return Samples(read_request(*map(Path, request.split(";"))), split)


@Registry.register_post_process()
def predicted(outputs: Any, **_: Any) -> Any:
    """The class of each sample, from the judged output, whose name Olive would not hand over."""
    return (outputs[os.environ[JUDGED]] if isinstance(outputs, dict) else outputs).argmax(-1)


def workflow(request: Request, variant: str) -> dict[str, Any]:
    """The configuration."""
    system = {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}
    configuration: dict[str, Any] = {
        "input_model": {"type": "ONNXModel", "model_path": str(request.model)},
        "systems": {"local": system},
        "data_configs": [data(request, split) for split in ("calibrate", "select")],
        "passes": {"quantization": {"type": "OnnxStaticQuantization", "data_config": "calibrate"}},
        "target": "local", "host": "local", "cache_dir": str(request.out / "cache"), "output_dir": str(request.out / "olive"),
    }  # fmt: skip
    return configuration if variant == "default" else configuration | search(request)


def data(request: Request, split: str) -> dict[str, Any]:
    """How Olive reads a split."""
    load = {"type": "split_of", "params": {"request": f"{request.folder};{request.out}", "split": split}}
    return {
        "name": split, "user_script": __file__, "script_dir": str(Path(__file__).parent), "load_dataset_config": load,
        "post_process_data_config": {"type": "predicted"},
    }  # fmt: skip


def search(request: Request) -> dict[str, Any]:
    """What its search is told."""
    classes = {"task": "multiclass", "num_classes": int(request.labels().max()) + 1}
    right = {"name": "accuracy_score", "priority": 2, "goal": {"type": "max-degradation", "value": request.limit / 100}}
    quick = {"name": "avg", "priority": 1, "goal": {"type": "percent-min-improvement", "value": 1}}
    metrics = [
        {"name": "latency", "type": "latency", "data_config": "calibrate", "sub_types": [quick]},
        {"name": "accuracy", "type": "accuracy", "data_config": "select", "sub_types": [{**right, "metric_config": classes}]},
    ]
    fusion = {"fusion": {"type": "OrtTransformersOptimization", "model_type": "bert"}} if request.transformer else {}
    strategy = {"execution_order": "joint", "sampler": "tpe", "sampler_config": {"max_samples": TRIES, "seed": 0}}
    return {
        "passes": {**fusion, "quantization": {"type": "OnnxQuantization", "data_config": "calibrate"}},
        "evaluators": {"both": {"type": "OnnxEvaluator", "metrics": metrics}}, "evaluator": "both",
        "search_strategy": {**strategy, "max_iter": TRIES, "max_time": SEARCH_SECONDS},
    }  # fmt: skip


def make(request: Request, variant: str) -> Made:
    """model.onnx, for ONNX Runtime."""
    os.environ[JUDGED] = request.output
    result = run(workflow(request, variant))
    best = result.get_best_candidate()
    if best is None:
        raise NotMade("its search found no model within the limit that is faster")
    shutil.copyfile(best.model_path, request.out / "model.onnx")
    settings = f"olive run, OnnxStaticQuantization, all defaults, {NUM_SAMPLES} samples"
    if variant == "best":
        settings = f"olive run, OnnxQuantization, search of {TRIES} by TPE within {request.limit:g} points; it chose {chosen(result, best)}"
    return Made("model.onnx", "onnxruntime", settings, ("olive-ai", "onnxruntime", "onnx"))


def chosen(result: Any, best: Any) -> str:
    """The options of the quantisation that won."""
    options = next((o for o in result.trace_back_run_history(best.model_id).values() if o and "quant_mode" in o), {})
    return ", ".join(f"{key}={options[key]}" for key in SHOWN if options.get(key) is not None)


if __name__ == "__main__":
    main(make)
