"""Dynamic quantisation by ONNX Runtime itself, after its own pre-processing.

default   quantize_dynamic with every option at its default (int8 weights, one scale a tensor, convolutions too)
best      one weight scale a channel, 7-bit weights where full-range products overflow, matrix products only: its documentation
          advises dynamic quantisation for transformers, and its integer convolution is slow
"""

from __future__ import annotations

from typing import Any

import onnx
from _peer import Made, Request, main
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process


def make(request: Request, variant: str) -> Made:
    """model.onnx, for ONNX Runtime."""
    prepared, result = request.out / "prepared.onnx", request.out / "model.onnx"
    quant_pre_process(str(request.model), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    del model.graph.value_info[:]  # it transposes the weights of Gemm, which contradicts the shapes that were noted
    options: dict[str, Any] = {}
    settings = "quantize_dynamic, all defaults"
    if variant == "best":
        options = {"per_channel": True, "reduce_range": request.saturates, "op_types_to_quantize": ["MatMul", "Gemm"]}
        settings = f"quantize_dynamic, per channel, reduce_range={request.saturates}, MatMul and Gemm only"
    quantize_dynamic(model, str(result), **options)
    return Made("model.onnx", "onnxruntime", settings, ("onnxruntime", "onnx"))


if __name__ == "__main__":
    main(make)
