"""nncf.quantize_with_accuracy_control of the OpenVINO model: operations return to float32 until select loses no more than the limit.

default   every option at its default, but the limit is the job's
best      mixed preset, the slow bias correction, hyper-parameters tuned before operations are reverted; of a transformer the model type
          and the fast bias correction (the slow one fails there)
"""

from __future__ import annotations

from typing import Any

import nncf
import openvino as ov
from _peer import Made, Request, main


def make(request: Request, variant: str) -> Made:
    """model.xml, for OpenVINO."""
    samples = list(request.samples("calibrate", 300))
    validation = list(zip(request.samples("select"), request.labels(), strict=True))
    options: dict[str, Any] = {}
    settings = f"quantize_with_accuracy_control, max_drop={request.limit / 100:g}, otherwise defaults"
    if variant == "best":
        restorer = nncf.AdvancedAccuracyRestorerParameters(tune_hyperparams=True)
        kind = nncf.ModelType.TRANSFORMER if request.transformer else None
        options = {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": request.transformer, "model_type": kind}
        options["advanced_accuracy_restorer_parameters"] = restorer
        settings = f"quantize_with_accuracy_control, max_drop={request.limit / 100:g}, mixed preset, tuned"
        settings += ", transformer" if request.transformer else ", accurate bias correction"

    def validate(model: Any, data: Any) -> tuple[float, list[float]]:
        right = [float(model(sample)[request.output].argmax() == label) for sample, label in data]
        return sum(right) / len(right), right

    quantized = nncf.quantize_with_accuracy_control(
        ov.Core().read_model(request.model),
        nncf.Dataset(samples),
        nncf.Dataset(validation),
        validate,
        max_drop=request.limit / 100,
        **options,
    )
    ov.save_model(quantized, request.out / "model.xml", compress_to_fp16=False)
    return Made("model.xml", "openvino", settings, ("nncf", "openvino"))


if __name__ == "__main__":
    main(make)
