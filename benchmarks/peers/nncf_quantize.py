"""nncf.quantize of the OpenVINO model.

default   every option at its default (300 samples, performance preset, fast bias correction)
best      mixed preset (asymmetric activations), the slow bias correction, up to 1,000 samples; of a transformer the model type,
          which brings SmoothQuant
"""

from __future__ import annotations

from typing import Any

import nncf
import openvino as ov
from _peer import Made, Request, main

NUM_SAMPLES = 1000


def make(request: Request, variant: str) -> Made:
    """model.xml, for OpenVINO."""
    count = 300 if variant == "default" else NUM_SAMPLES
    samples = list(request.samples("calibrate", count))
    options: dict[str, Any] = {}
    settings = f"nncf.quantize, all defaults, {len(samples)} samples"
    if variant == "best":
        kind = nncf.ModelType.TRANSFORMER if request.transformer else None
        options = {"preset": nncf.QuantizationPreset.MIXED, "subset_size": len(samples), "model_type": kind, "fast_bias_correction": False}
        settings = f"nncf.quantize, mixed preset, accurate bias correction, {len(samples)} samples" + ", transformer" * request.transformer
    quantized = nncf.quantize(ov.Core().read_model(request.model), nncf.Dataset(samples), **options)
    ov.save_model(quantized, request.out / "model.xml", compress_to_fp16=False)
    return Made("model.xml", "openvino", settings, ("nncf", "openvino"))


if __name__ == "__main__":
    main(make)
