"""A plug-in of hasten: an exported program, compiled by Inductor when it is loaded. For programs of torchao, which is not needed elsewhere.

hasten optimize ... --plugin benchmarks/peers/torch_compile.py
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hasten.core.candidate import Candidate, Floor
from hasten.core.need import missing, need
from hasten.core.seams import Arrays, Program, Runtime, Target, option
from hasten.core.signature import Signature
from hasten.runtimes._folder import link_or_copy, read_signature, write_signature

TORCHAO = "HASTEN_TORCHAO"
"""Environment variable: the site-packages folder that holds torchao, where it is not in hasten's own environment."""
_FILE = "model.pt2"


@dataclass(frozen=True, kw_only=True)
class TorchCompile(Runtime):
    """torch.compile with the Inductor back end. Needs a C++ compiler. For the batch size that the program was exported for."""

    name: ClassVar[str] = "torch-compile"
    floor: ClassVar[Floor] = Floor.MODULE
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    threads: int = option(0, "Threads that one operator may use. 0: the target's.", choices=(0,), low=0)
    freezing: bool = option(False, "Weights become constants of the compiled code: what int8 kernels need.")

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        return missing("torch")

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        link_or_copy(candidate.path, folder / _FILE)
        write_signature(candidate.signature, folder)
        self.load(folder, target).close()  # fills the cache in `folder`

    def load(self, folder: Path, target: Target) -> Program:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        if (place := os.environ.get(TORCHAO)) and place not in sys.path:
            sys.path.append(place)  # last: everything else comes from hasten's environment
        torch = need("torch", why="by the runtime torch-compile")
        if place:
            import torchao.quantization.pt2e.lowering  # noqa: F401 (registers the operators that the program holds)
        signature = read_signature(folder)
        torch.set_num_threads(self.num_threads(target))
        inductor = __import__("torch._inductor.config", fromlist=["config"])
        inductor.freezing = self.freezing
        inductor.cpp_wrapper = True
        module = torch.export.load(folder / _FILE).module(check_guards=False)
        program = _Compiled(torch, torch.compile(module, dynamic=False), signature)
        example = {spec.name: np.ones([n or target.batch_size for n in spec.shape], spec.dtype) for spec in signature.inputs}
        for _ in range(2):  # the first call compiles
            program.run(example)
        return program


class _Compiled(Program):
    def __init__(self, torch: Any, forward: Any, signature: Signature) -> None:
        self._torch, self._forward, self._signature = torch, forward, signature
        self._leaves = torch.utils._pytree.tree_leaves

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        tensors = [self._torch.from_numpy(np.ascontiguousarray(inputs[spec.name])) for spec in self._signature.inputs]
        with self._torch.no_grad():
            outputs = self._leaves(self._forward(*tensors))
        return {
            spec.name: np.array(tensor.numpy(), dtype=spec.dtype) for spec, tensor in zip(self._signature.outputs, outputs, strict=True)
        }
