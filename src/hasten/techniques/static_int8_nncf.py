"""Weights and activations in 8 bits, by NNCF: graphs that OpenVINO likes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from ..core.candidate import Candidate
from ..core.errors import NotPossibleHere
from ..core.need import missing, need
from ..core.seams import Context, Forecast, Profile, Technique, option
from ._graph import INT8_OPERATORS, calibration_samples, is_transformer, quietly, read_graph, write_graph


@dataclass(frozen=True, kw_only=True)
class StaticInt8Nncf(Technique):
    """Post-training quantisation to QDQ, one grid for each tensor that the CPU plug-in of OpenVINO computes in integers.

    Its quantizers stand where OpenVINO fuses them; ONNX Runtime runs the same file, often slower than float32.
    """

    name: ClassVar[str] = "static-int8-nncf"
    forbids: ClassVar[frozenset[str]] = frozenset({"int8-weights", "float16-weights"})
    adds: ClassVar[frozenset[str]] = frozenset({"int8-weights", "int8-activations", "qdq"})
    packages: ClassVar[tuple[str, ...]] = ("nncf", "onnx")

    calibration: str = option(
        "minmax",
        "How an activation's range is chosen: minmax (over all samples), or default (NNCF's own: each sample's extremes, averaged, "
        "which cuts off what is rare: a ResNet-20 kept 21 dB with it and 32 with minmax).",
        allowed=("minmax", "default"),
    )
    bias_correction: bool = option(
        False,
        "Shift biases by the mean error of quantisation (fast variant). Of two networks tried, one gained 1 dB by it and one lost 7.",
        choices=(False, True),
    )
    preset: str = option(
        "performance", "performance (symmetric grids) or mixed (asymmetric activations where their values are).",
        allowed=("performance", "mixed"),
    )  # fmt: skip
    model_type: str = option("any", "any, or transformer (its patterns and SmoothQuant, arXiv:2211.10438).", allowed=("any", "transformer"))
    reduce_range: bool = option(False, "Weights in 7 bits: what is right on x86 without VNNI (see the machine's checks).")
    num_samples: int = option(300, "Samples of the calibrate split.", unit="samples", low=1)
    skip: tuple[str, ...] = option((), "Nodes of the graph that stay in float: mixed precision, chosen by what each costs and gains.")

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """The choices, with the weight range and the patterns that suit this machine and this graph."""
        saturates = "u8s8-saturates" in profile.facts
        kind = "transformer" if is_transformer(profile.operators) else "any"
        preset = "mixed" if kind == "transformer" else "performance"
        for plain in super().space(profile):
            yield replace(plain, preset=preset, model_type=kind, reduce_range=saturates)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        if absent := missing("nncf", "onnx"):
            return absent
        if profile.operators and not set(profile.operators) & {"Conv", "ConvTranspose", "MatMul", "Gemm"}:
            return "the graph has no convolution or matrix product to quantise"
        return None

    def expects(self, profile: Profile) -> Forecast:
        seconds = 10.0 + 0.1 * min(self.num_samples, profile.num_calibration or self.num_samples)
        return Forecast(speedup=1.9 if "vnni" in profile.facts else 1.3, seconds=seconds, int8_operators=INT8_OPERATORS, smaller=3.5)

    def skipping(self, nodes: tuple[str, ...]) -> Self | None:
        return replace(self, skip=nodes)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        with quietly("technique static-int8-nncf"):
            nncf = need("nncf", why="to quantise")
            estimators = need("nncf.quantization.range_estimator").RangeEstimatorParametersSet
            samples = list(calibration_samples(candidate, context, self.num_samples))
            if not samples:
                raise NotPossibleHere("technique static-int8-nncf", "needs at least one calibration sample that fills the model's batch")
            model = nncf.quantize(
                read_graph(candidate.path),
                nncf.Dataset(samples),
                subset_size=len(samples),
                preset=nncf.QuantizationPreset(self.preset),
                model_type=nncf.ModelType.TRANSFORMER if self.model_type == "transformer" else None,
                fast_bias_correction=True,
                ignored_scope=nncf.IgnoredScope(names=list(self.skip)) if self.skip else None,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.ENABLE if self.reduce_range else nncf.OverflowFix.DISABLE,
                    disable_bias_correction=not self.bias_correction,
                    activations_range_estimator_params=estimators.MINMAX if self.calibration == "minmax" else None,
                ),
            )
        return candidate.then(self.step(), write_graph(model, context.folder), adds=self.adds, lossless=False)
