"""What NNCF's example does to train for 8 bits, as a technique, so that it is trained, timed and judged like ours; and what torchao's
(rival_qat_torchao.py) shares with it.

Its examples/quantization_aware_training/torch/resnet18: nncf.quantize of the user's module with 300 samples, fine-tuning on the labels with
Adam at 1e-5, OpenVINO's converter. Both examples begin from the user's own module, on batches that ours sees too, in float32, every step at
one learning rate, and end after so many seconds of the processor where that is sooner than the epochs. With no epochs they only round.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hasten.core import callables
from hasten.core.candidate import Candidate, Floor
from hasten.core.seams import Context, Forecast, Profile, Technique, option
from hasten.techniques.qat_int8 import QatInt8
from hasten.train.batches import Batch, Batches

ROOT = Path(__file__).parents[1]
NUM_SAMPLES = 300


@dataclass(frozen=True, kw_only=True)
class Clocked(Technique):
    """`qat-int8` on one thread, with the seconds that it took told, as those of the examples are."""

    name: ClassVar[str] = "qat-int8-clocked"
    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    adds: ClassVar[frozenset[str]] = QatInt8.adds
    packages: ClassVar[tuple[str, ...]] = QatInt8.packages

    epochs: int = option(1, "Passes over the train split.")
    alpha: float = option(0.5, "The teacher's share of the loss.")
    per_channel: bool = option(False, "Weights have one scale for each output channel.")

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return None

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=1.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        import torch

        torch.set_num_threads(1)
        batches, began = batches_of(context, candidate), time.process_time()
        made = QatInt8(epochs=self.epochs, alpha=self.alpha, per_channel=self.per_channel).apply(candidate, context)
        what = told(time.process_time() - began, self.epochs * len(batches) * batches.size)
        return candidate.then(self.step(), made.path, adds=self.adds, lossless=False, notes=[what])


@dataclass(frozen=True, kw_only=True)
class Example(Technique):
    """What the examples of other tools have in common: they begin from the user's module, and end by epochs or by seconds."""

    floor: ClassVar[Floor] = Floor.MODULE
    trains: ClassVar[bool] = True
    adds: ClassVar[frozenset[str]] = frozenset({"int8-weights", "int8-activations"})

    source: str = option("", "The user's module: file.py:function, from the root of the checkout.")
    epochs: int = option(1, "Passes over the train split, at the most.", low=0)
    seconds: float = option(0.0, "Seconds of the processor that the training may take. 0: any.", low=0.0)

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return None

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.0, seconds=1.0)


@dataclass(frozen=True, kw_only=True)
class NncfExample(Example):
    """nncf.quantize, then Adam at 1e-5 on the labels; a model of OpenVINO's own. Weights have one scale for each output channel: told to
    have one for all (QuantizationParameters(per_channel=False)), NNCF 3.4 heeds it in the linear layer and in no convolution."""

    name: ClassVar[str] = "nncf-qat-example"
    packages: ClassVar[tuple[str, ...]] = ("torch", "nncf", "openvino")

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        os.environ["NNCF_EXTENSION_LOAD_TIMEOUT"] = "0"  # its kernels are compiled when they are first used
        import nncf
        import openvino as ov
        import torch

        torch.set_num_threads(1)
        samples = nncf.Dataset([torch.from_numpy(rows) for rows in calibration(context)])
        quantized: Any = nncf.quantize(users(self.source), samples, subset_size=NUM_SAMPLES)
        optimizer = torch.optim.Adam(quantized.parameters(), lr=1e-5)
        what = fine_tune(quantized.train(), batches_of(context, candidate), optimizer, epochs=self.epochs, seconds=self.seconds)
        example = torch.from_numpy(calibration(context)[0])
        model = ov.convert_model(quantized.eval(), example_input=example, input=[-1, *example.shape[1:]])
        for port, spec in zip([*model.inputs, *model.outputs], [*candidate.signature.inputs, *candidate.signature.outputs], strict=True):
            port.set_names({spec.name})
        path = context.folder / "model.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        return candidate.then(self.step(), path, floor=Floor.GRAPH, adds=self.adds, lossless=False, notes=[what])


def fine_tune(
    module: Any, batches: Batches, optimizer: Any, *, epochs: int, seconds: float, after: Callable[[float], None] | None = None
) -> str:  # fmt: skip
    """Train on the labels. after: hears the share that is done, 0..1, after every step. Returns what it took, as `told`."""
    began, step, total = time.process_time(), 0, epochs * len(batches)
    for batch in itertools.chain.from_iterable(batches.epoch(number) for number in range(epochs)):
        loss = _cross_entropy(module, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        done = max(step / total, (time.process_time() - began) / seconds if seconds else 0.0)
        if after is not None:
            after(done)
        if done >= 1:
            break
    return told(time.process_time() - began, step * batches.size)


def _cross_entropy(module: Any, batch: Batch) -> Any:
    from torch.nn import functional

    assert batch.labels is not None
    return functional.cross_entropy(module(*batch.inputs), batch.labels)


def users(source: str) -> Any:
    """The user's module, inside another: NNCF adds a child to what it is given, which torch.nn.Sequential would call."""
    from torch import nn

    class Whole(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: Any) -> Any:
            return self.module(*inputs)

    return Whole(callables.call(source, ROOT, field="source"))


def calibration(context: Context) -> list[Any]:
    """Samples of the calibrate split of a model of one input, each [1, ...]."""
    import numpy as np

    (rows,) = context.calibration_arrays().values()
    return [np.array(rows[at : at + 1]) for at in range(min(NUM_SAMPLES, len(rows)))]


def batches_of(context: Context, candidate: Candidate) -> Batches:
    assert context.training is not None
    return Batches.of(context.training, [spec.name for spec in candidate.signature.inputs], context.seed)


def told(seconds: float, samples: int) -> str:
    return json.dumps({"train_seconds": round(seconds, 1), "train_samples": samples})


def took(candidate: Candidate) -> dict[str, float]:
    """Seconds of the processor and samples that the technique of this file that made the candidate trained with."""
    kept: dict[str, float] = json.loads(candidate.notes[-1])
    return kept
