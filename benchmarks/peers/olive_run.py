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

import onnxruntime
import torch
from _peer import Made, NotMade, Request, main, read_request
from olive.data.registry import Registry
from olive.workflows import run

NUM_SAMPLES = 300
TRIES = 12
SEARCH_SECONDS = 300


class Calibration(torch.utils.data.Dataset[Any]):
    """The calibrate split, (inputs, label), as Olive's data loader wants it."""

    def __init__(self, request: Request) -> None:
        self._samples = [{name: array[0] for name, array in sample.items()} for sample in request.samples("calibrate", NUM_SAMPLES)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._samples[index], 0


@Registry.register_dataset()
def calibration(request: str, **_: Any) -> Calibration:
    """Olive finds it by its name. request: "INPUTS;OUT"."""
    return Calibration(read_request(*map(Path, request.split(";"))))


def accuracy(model: Any, device: Any, providers: Any, request: str) -> float:
    """What Olive calls for each model of its search."""
    asked = read_request(*map(Path, request.split(";")))
    session = onnxruntime.InferenceSession(str(model.model_path), providers=["CPUExecutionProvider"])
    return asked.accuracy(lambda sample: session.run([asked.output], sample)[0])


def workflow(request: Request, variant: str) -> dict[str, Any]:
    """The configuration."""
    named = f"{request.folder};{request.out}"
    here = {"user_script": __file__, "script_dir": str(Path(__file__).parent)}
    data = {"name": "calibration", **here, "load_dataset_config": {"type": "calibration", "params": {"request": named}}}
    system = {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}
    configuration: dict[str, Any] = {
        "input_model": {"type": "ONNXModel", "model_path": str(request.model)},
        "systems": {"local": system},
        "data_configs": [data],
        "passes": {"quantization": {"type": "OnnxStaticQuantization", "data_config": "calibration"}},
        "target": "local", "host": "local", "cache_dir": str(request.out / "cache"), "output_dir": str(request.out / "olive"),
    }  # fmt: skip
    if variant == "best":
        goal = {"type": "max-degradation", "value": request.limit / 100}
        right = {"name": "accuracy", "priority": 1, "higher_is_better": True, "goal": goal}
        metrics = [
            {"name": "accuracy", "type": "custom", "sub_types": [right],
             "user_config": {**here, "evaluate_func": "accuracy", "evaluate_func_kwargs": {"request": named}}},
            {"name": "latency", "type": "latency", "data_config": "calibration",
             "sub_types": [{"name": "avg", "priority": 2, "goal": {"type": "percent-min-improvement", "value": 1}}]},
        ]  # fmt: skip
        fusion = {"fusion": {"type": "OrtTransformersOptimization", "model_type": "bert"}} if request.transformer else {}
        sampler = {"max_samples": TRIES, "seed": 0}
        configuration |= {
            "passes": {**fusion, "quantization": {"type": "OnnxQuantization", "data_config": "calibration"}},
            "evaluators": {"both": {"metrics": metrics}},
            "evaluator": "both",
            "search_strategy": {"execution_order": "joint", "sampler": "tpe", "sampler_config": sampler, "max_iter": TRIES,
                                "max_time": SEARCH_SECONDS},
        }  # fmt: skip
    return configuration


def make(request: Request, variant: str) -> Made:
    """model.onnx, for ONNX Runtime."""
    best = run(workflow(request, variant)).get_best_candidate()
    if best is None:
        raise NotMade("its search found no model")
    shutil.copyfile(best.model_path, request.out / "model.onnx")
    settings = f"olive run, OnnxStaticQuantization, all defaults, {NUM_SAMPLES} samples"
    if variant == "best":
        settings = f"olive run, OnnxQuantization, search of {TRIES} by TPE within {request.limit:g} points; it chose {chosen(best)}"
    return Made("model.onnx", "onnxruntime", settings, ("olive-ai", "onnxruntime", "onnx"))


def chosen(best: Any) -> str:
    """The options of the quantisation that won."""
    return str(best)


if __name__ == "__main__":
    main(make)
