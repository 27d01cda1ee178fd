"""Weights in 8 bits; activations quantised while running, by what they are just then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from ..core.candidate import Candidate
from ..core.need import missing, need
from ..core.seams import Context, Forecast, Profile, Technique, option
from ._graph import quietly, read_graph_to_quantize

_OPERATORS = {"MatMul", "Gemm", "LSTM", "Attention"}


@dataclass(frozen=True, kw_only=True)
class DynamicInt8(Technique):
    """Matrix products in int8 without calibration. One range covers the whole batch, so a sample's result depends on its company."""

    name: ClassVar[str] = "dynamic-int8"
    forbids: ClassVar[frozenset[str]] = frozenset({"int8-weights", "float16-weights"})
    adds: ClassVar[frozenset[str]] = frozenset({"int8-weights", "dynamic-int8", "batch-dependent"})
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")

    per_channel: bool = option(True, "One scale for each output channel of a weight, instead of one for all.")
    reduce_range: bool = option(False, "Weights in 7 bits: what is right on x86 without VNNI (see the machine's checks).")

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """One variant: the weight range that this machine multiplies right."""
        yield cls(reduce_range="u8s8-saturates" in profile.facts)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if absent := missing("onnx", "onnxruntime"):
            return absent
        found = _OPERATORS & set(profile.operators)
        if profile.operators and not found:
            return "the graph has no MatMul, Gemm, LSTM or Attention, which are what it quantises"
        if profile.operators.get("Conv", 0) > sum(profile.operators[o] for o in found):
            return "the graph is mostly convolutions, which it leaves as they are"
        return None

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(
            speedup=1.6 if "vnni" in profile.facts else 1.3, seconds=5.0, int8_operators=frozenset({"MatMul", "Gemm"}), smaller=2.0
        )  # fmt: skip

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        quantization = need("onnxruntime.quantization", why="to quantise")
        path = context.folder / "model.onnx"
        with quietly("technique dynamic-int8"):
            quantization.quantize_dynamic(
                read_graph_to_quantize(candidate.path),
                str(path),
                op_types_to_quantize=sorted(_OPERATORS),
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                weight_type=quantization.QuantType.QInt8,
            )
        return candidate.then(self.step(), path, adds=self.adds, lossless=False)
