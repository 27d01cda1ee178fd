"""isat-tuner on the ONNX model.

default   `isat tune model.onnx` on the CPU, without its pauses of a minute between configurations; the program is what the winner
          was timed as. On a CPU that is the model as it came: of version 0.12 no configuration is built before it is timed
best      `isat quantize`'s int8 (ModelQuantizer.quantize_int8, per channel), calibrated with real samples
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from _peer import Made, NotMade, Request, main

NUM_SAMPLES = 300
LEVELS = {"opt0": "disabled", "opt1": "basic", "opt2": "extended", "opt99": "all"}


def tuned(request: Request) -> Made:
    """The winner of `isat tune`."""
    command = [sys.executable, "-m", "isat", "tune", str(request.model), "--provider", "CPUExecutionProvider", "--cooldown", "0"]
    done = subprocess.run([*command, "--output-dir", str(request.out / "isat"), "--db", str(request.out / "isat.db")], capture_output=True)
    reports = sorted((request.out / "isat").glob("*.json"))
    if done.returncode or not reports:
        raise NotMade(f"isat tune ended with {done.returncode}: {done.stderr.decode().strip().splitlines()[-1:]}")
    results = [one for one in json.loads(Path(reports[0]).read_text())["all_results"] if "error" not in one]
    if not results:
        raise NotMade("isat tune could time no configuration")
    label = min(results, key=lambda one: one["mean_latency_ms"])["label"]
    shutil.copyfile(request.model, request.out / "model.onnx")
    level = LEVELS[label.rsplit("_", 1)[-1]]
    settings = f"isat tune --provider CPUExecutionProvider --cooldown 0; it chose {label}, timed on the model as it came"
    return Made("model.onnx", "onnxruntime", settings, ("isat-tuner", "onnxruntime"), {"optimization": level})


def quantized(request: Request) -> Made:
    """Its own int8."""
    from isat.quantize.quantizer import ModelQuantizer

    result = ModelQuantizer(str(request.model)).quantize_int8(
        str(request.out / "model.onnx"), calibration_data=list(request.samples("calibrate", NUM_SAMPLES))
    )
    if not result.success:
        raise NotMade(f"its quantize_int8 says: {result.error}")
    return Made("model.onnx", "onnxruntime", f"isat's quantize_int8, per channel, {NUM_SAMPLES} samples", ("isat-tuner", "onnxruntime"))


def make(request: Request, variant: str) -> Made:
    """model.onnx, for ONNX Runtime."""
    return tuned(request) if variant == "default" else quantized(request)


if __name__ == "__main__":
    main(make)
