"""torchao on torch.compile. The program is a torch exported program, which the plug-in torch_compile.py compiles with Inductor.

default   quantize_(model, Int8DynamicActivationInt8WeightConfig()), as its readme shows: linear layers only
best      PT2E static quantisation with X86InductorQuantizer, as its tutorial for x86 shows, weights frozen; 7-bit weights where
          full-range products overflow
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import torch
from _peer import Made, Request, main

ROOT = Path(__file__).parents[2]
NUM_SAMPLES = 300


def tensors(sample: dict[str, Any], request: Request) -> tuple[torch.Tensor, ...]:
    """A sample in the order of the model's inputs."""
    return tuple(torch.from_numpy(sample[name]) for name in request.inputs)


class Plain(torch.nn.Module):
    """A module whose outputs are a tuple: what the user's own type would be called cannot be written into a file."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.module(*inputs)
        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def linear_only(request: Request, example: tuple[torch.Tensor, ...]) -> Any:
    """The user's module with its linear layers quantised, exported for a batch of 1."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    file, _, function = request.source.partition(":")
    module = runpy.run_path(str(ROOT / file))[function]()
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return torch.export.export(Plain(module).eval(), example)


def static(request: Request, example: tuple[torch.Tensor, ...]) -> Any:
    """The original, quantised where Inductor has integer kernels for x86, exported for a batch of 1."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    original = torch.export.load(request.folder / "model.pt2").module(check_guards=False)
    module = torch.export.export(original, example).module(check_guards=False)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=request.saturates))
    prepared = prepare_pt2e(module, quantizer)
    for sample in request.samples("calibrate", NUM_SAMPLES):
        prepared(*tensors(sample, request))
    return torch.export.export(convert_pt2e(prepared), example)


def make(request: Request, variant: str) -> Made:
    """model.pt2, for torch.compile."""
    torch.set_num_threads(request.threads)
    example = tensors(next(request.samples("calibrate")), request)
    with torch.inference_mode(False), torch.no_grad():
        if variant == "best":
            program = static(request, example)
            settings = f"PT2E, X86InductorQuantizer, reduce_range={request.saturates}, {NUM_SAMPLES} samples, torch.compile with freezing"
        else:
            program = linear_only(request, example)
            settings = "quantize_ with Int8DynamicActivationInt8WeightConfig(), torch.compile"
    torch.export.save(program, request.out / "model.pt2")
    return Made("model.pt2", "torch-compile", settings, ("torchao", "torch"), {"freezing": variant == "best"})


if __name__ == "__main__":
    main(make)
