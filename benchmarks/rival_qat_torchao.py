"""What torchao's tutorials "PT2E QAT" and "x86 back end through Inductor" do to train for 8 bits, as a technique, so that it is trained,
timed and judged like ours: prepare_qat_pt2e with X86InductorQuantizer, training on the labels, convert_pt2e, torch.compile with freezing.

They leave the optimiser open: it is that of the tutorial that they come from (static quantisation in eager mode), SGD at 1e-4. Statistics
of batch normalisation are frozen after 3 and observers after 4 of 10 parts of the training, as there.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from rival_qat import Example, batches_of, calibration, fine_tune, told, users

from hasten.core.candidate import Candidate
from hasten.core.seams import Context

TORCHAO = "HASTEN_TORCHAO"  # as in peers/torch_compile.py


@dataclass(frozen=True, kw_only=True)
class TorchaoExample(Example):
    """PT2E for Inductor on x86, trained by SGD at 1e-4 on the labels; a program for batches of one. Weights have one scale for each output
    channel: its documents tell of no setting for one scale for all."""

    name: ClassVar[str] = "torchao-qat-example"
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        sys.path.append(os.environ[TORCHAO])  # last: everything else comes from hasten's environment
        import torch
        from torchao.quantization.pt2e import move_exported_model_to_eval
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        torch.set_num_threads(1)
        samples = [torch.from_numpy(rows) for rows in calibration(context)]
        what = told(0.0, 0)
        if self.epochs:
            batches = batches_of(context, candidate)
            prepared = self._prepared(batches.plain(4).inputs, training=True)
            optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-4)
            what = fine_tune(
                prepared, batches, optimizer, epochs=self.epochs, seconds=self.seconds, after=lambda done: _froze(prepared, done)
            )
        else:
            prepared = self._prepared((torch.cat(samples[:4]),), training=False)
            with torch.no_grad():
                for sample in samples:
                    prepared(sample)
        converted = convert_pt2e(prepared)
        move_exported_model_to_eval(converted)
        path = context.folder / "model.pt2"
        torch.export.save(torch.export.export(converted, (samples[0],)), path)
        return candidate.then(self.step(), path, adds=self.adds, lossless=False, notes=[what])

    def _prepared(self, example: tuple[Any, ...], *, training: bool) -> Any:
        import torch
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        shapes = tuple({0: torch.export.Dim("batch")} for _ in example)
        whole = users(self.source).train(training)
        module = torch.export.export(whole, example, dynamic_shapes=(shapes,)).module(check_guards=False)  # one for all of *inputs
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=training))
        return (prepare_qat_pt2e if training else prepare_pt2e)(module, quantizer)


def _froze(prepared: Any, done: float) -> None:
    """What the tutorial ends on the way: statistics of batch normalisation, then observers. done: share of the training."""
    import torch
    from torchao.quantization.pt2e import disable_observer

    if done >= 0.3:
        changed = False
        for node in prepared.graph.nodes:
            if node.target == torch.ops.aten.batch_norm.default and node.args[5]:  # its sixth argument: training
                node.args, changed = (*node.args[:5], False, *node.args[6:]), True
        if changed:
            prepared.recompile()
    if done >= 0.4:
        prepared.apply(disable_observer)
