"""Static quantisation by ONNX Runtime itself, after its own pre-processing.

default   quantize_static with every option at its default (QDQ, int8 activations and weights, one scale a tensor, min-max)
best      what its documentation advises for x86: uint8 activations, one weight scale a channel, 7-bit weights where full-range products
          overflow; of a transformer only the matrix products
"""

from __future__ import annotations

from typing import Any

from _peer import Made, Request, main
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

NUM_SAMPLES = 300


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibrate split, sample by sample."""

    def __init__(self, request: Request) -> None:
        self.samples = request.samples("calibrate", NUM_SAMPLES)

    def get_next(self) -> Any:
        return next(self.samples, None)


def make(request: Request, variant: str) -> Made:
    """model.onnx, for ONNX Runtime."""
    prepared, result = request.out / "prepared.onnx", request.out / "model.onnx"
    quant_pre_process(str(request.model), str(prepared), skip_symbolic_shape=True)
    options: dict[str, Any] = {}
    settings = f"quantize_static, all defaults, {NUM_SAMPLES} samples"
    if variant == "best":
        options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
        options["reduce_range"] = request.saturates
        options["op_types_to_quantize"] = ["MatMul", "Gemm"] if request.transformer else None
        settings = f"quantize_static, U8S8, per channel, reduce_range={request.saturates}, {NUM_SAMPLES} samples"
        settings += ", MatMul and Gemm only" * request.transformer
    quantize_static(str(prepared), str(result), Reader(request), **options)
    return Made("model.onnx", "onnxruntime", settings, ("onnxruntime", "onnx"))


if __name__ == "__main__":
    main(make)
