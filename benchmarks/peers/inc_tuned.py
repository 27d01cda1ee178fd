"""Intel Neural Compressor on the ONNX model: quantise, look at the accuracy on select, give operators back to float32 until it holds.

Its last version for ONNX is 2.6; from 3.0 on it takes PyTorch alone. It needs an ONNX Runtime of its time; the program is run by hasten's.

default   PostTrainingQuantConfig() with the job's limit as the accuracy criterion
best      the same in QDQ format (what today's ONNX Runtime fuses best), 300 samples instead of 100, 7-bit weights where full-range
          products overflow; of a transformer the approach `auto` (static first, then dynamic)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnxruntime
from _peer import Made, NotMade, Request, main
from neural_compressor import quantization
from neural_compressor.config import AccuracyCriterion, PostTrainingQuantConfig, TuningCriterion

TUNING_SECONDS = 400


class Loader:
    """The calibrate split as its data loader: batches of one (inputs, label)."""

    batch_size = 1

    def __init__(self, request: Request, count: int) -> None:
        self._request, self._count = request, count

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        names = self._request.inputs
        for sample in self._request.samples("calibrate", self._count):
            yield (sample if len(names) > 1 else sample[names[0]]), 0


def make(request: Request, variant: str) -> Made:
    """model.onnx, for ONNX Runtime."""
    options: dict[str, Any] = {}
    settings = f"PostTrainingQuantConfig(), tolerable loss {request.limit / 100:g} absolute"
    count = 100
    if variant == "best":
        count = 300
        options = {"quant_format": "QDQ", "calibration_sampling_size": [count], "reduce_range": request.saturates or None}
        options["approach"] = "auto" if request.transformer else "static"
        settings += f", QDQ, {count} samples, reduce_range={request.saturates}, approach {options['approach']}"
    config = PostTrainingQuantConfig(
        accuracy_criterion=AccuracyCriterion(criterion="absolute", tolerable_loss=request.limit / 100),
        tuning_criterion=TuningCriterion(timeout=TUNING_SECONDS),
        **options,
    )

    def evaluate(model: Any) -> float:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return request.accuracy(lambda sample: session.run([request.output], sample)[0])

    model = onnx.load(request.model)
    del model.graph.value_info[:]  # it transposes the weights of Gemm, which contradicts the shapes that were noted
    quantized = quantization.fit(model, config, calib_dataloader=Loader(request, count), eval_func=evaluate)
    if quantized is None:
        raise NotMade(f"its tuning found no model within the limit in {TUNING_SECONDS} seconds")
    quantized.save(str(request.out / "model.onnx"))
    return Made("model.onnx", "onnxruntime", settings, ("neural-compressor", "onnxruntime", "onnx"))


if __name__ == "__main__":
    main(make)
