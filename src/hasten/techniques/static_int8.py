"""Weights and activations in 8 bits, by ONNX Runtime's quantizer: graphs that its own kernels like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Self

from ..core.candidate import Candidate
from ..core.errors import NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Context, Forecast, Profile, Technique, option
from ._graph import INT8_OPERATORS, calibration_samples, is_transformer, quietly, read_graph, read_graph_to_quantize, write_graph

_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
# A bias is added to what a product gives: rounding that before is noise for nothing.
_FLOAT_OUTPUTS: dict[str, list[str]] = {"all": [], "matmul": ["MatMul", "Gemm"]}
_CHUNK = 10  # samples whose activations are held at once
_HISTOGRAM_SAMPLES = 100  # histograms of every activation cost time; more samples change them little


@dataclass(frozen=True, kw_only=True)
class StaticInt8(Technique):
    """Post-training quantisation to QDQ with uint8 activations and symmetric int8 weights (Jacob et al. 2017, arXiv:1712.05877).

    Signed activations were slower than float32 or no faster in ONNX Runtime on x86, with VNNI and without, so they are no option.
    """

    name: ClassVar[str] = "static-int8"
    forbids: ClassVar[frozenset[str]] = frozenset({"int8-weights", "float16-weights"})
    adds: ClassVar[frozenset[str]] = frozenset({"int8-weights", "int8-activations", "qdq"})
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")

    calibration: str = option(
        "minmax",
        "How an activation's range is chosen from the samples: minmax (what was seen), percentile (99.999 % of it) or "
        "entropy (least Kullback-Leibler divergence).",
        choices=("minmax", "percentile", "entropy"),
    )
    per_channel: bool = option(
        True, "One scale for each output channel of a weight, instead of one for all. A MobileNetV2 kept 25 dB with it, 11 without."
    )
    reduce_range: bool = option(
        False,
        "Weights in 7 bits. Right on x86 without VNNI, where two full-range products overflow 16 bits and saturate; "
        "elsewhere it loses accuracy for nothing.",
    )
    ops: str = option(
        "all", "Which operators: all that can be, or matmul (MatMul and Gemm only: what pays in transformers).", allowed=("all", "matmul")
    )
    num_samples: int = option(300, "Samples of the calibrate split (at most 100 for percentile and entropy).", unit="samples", low=1)
    skip: tuple[str, ...] = option((), "Nodes of the graph that stay in float: mixed precision, chosen by what each costs and gains.")

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """Each calibration, with the weight range that this machine multiplies right and the operators that pay."""
        saturates = "u8s8-saturates" in profile.facts
        ops = "matmul" if is_transformer(profile.operators) else "all"
        return (cls(calibration=method, reduce_range=saturates, ops=ops) for method in _METHODS)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if absent := missing("onnx", "onnxruntime"):
            return absent
        if profile.operators and not set(profile.operators) & {"Conv", "ConvTranspose", "MatMul", "Gemm"}:
            return "the graph has no convolution or matrix product to quantise"
        return None

    def expects(self, profile: Profile) -> Forecast:
        speedup = 1.9 if "vnni" in profile.facts else 1.4
        if is_transformer(profile.operators):
            speedup = 1.15
        seconds = 5.0 + 0.05 * min(self.num_samples, profile.num_calibration or self.num_samples)
        operators = frozenset({"MatMul", "Gemm"}) if self.ops == "matmul" else INT8_OPERATORS
        seconds = seconds if self.calibration == "minmax" else 3 * seconds
        return Forecast(speedup=speedup, seconds=seconds, int8_operators=operators, smaller=3.5)

    def skipping(self, nodes: tuple[str, ...]) -> Self | None:
        return replace(self, skip=nodes)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        quantization = need("onnxruntime.quantization", why="to quantise")
        limit = self.num_samples if self.calibration == "minmax" else min(self.num_samples, _HISTOGRAM_SAMPLES)
        with quietly("technique static-int8"):
            reader = _reader(quantization, list(calibration_samples(candidate, context, limit)))
            path = context.folder / "model.onnx"
            quantization.quantize_static(
                read_graph_to_quantize(candidate.path),
                str(path),
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["MatMul", "Gemm"] if self.ops == "matmul" else None,
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=list(self.skip) or None,
                calibrate_method=getattr(quantization.CalibrationMethod, _METHODS[self.calibration]),
                extra_options={"CalibStridedMinMax": reader.chunk, "OpTypesToExcludeOutputQuantization": _FLOAT_OUTPUTS[self.ops]},
            )
            write_graph(_sorted_initializers(read_graph(path)), context.folder)
        return candidate.then(self.step(), path, adds=self.adds, lossless=False)


def _sorted_initializers(model: Any) -> Any:
    """The quantizer walks sets: without an order of our own, equal models would have unequal files."""
    ordered = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    del model.graph.initializer[:]
    model.graph.initializer.extend(ordered)
    return model


def _reader(quantization: Any, samples: list[Any]) -> Any:
    """The samples as ONNX Runtime's calibrator reads them, `chunk` at a time, so that few activations are held at once."""
    if not samples:
        raise NotPossibleHere("technique static-int8", "needs at least one calibration sample that fills the model's batch")
    chunk = min(_CHUNK, len(samples))
    kept = samples[: len(samples) - len(samples) % chunk]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.chunk = chunk
            self._next = iter(kept)

        def __len__(self) -> int:
            return len(kept)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._next = islice(kept, start_index, end_index)

        def get_next(self) -> Any:
            return next(self._next, None)

    return Reader()
