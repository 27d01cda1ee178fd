"""PyTorch as the user wrote it: the reference that defines what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.errors import BundleError
from ..core.need import missing, need
from ..core.seams import Arrays, Program, Runtime, Target, option
from ..core.signature import Signature
from ._folder import link_or_copy, read_signature, write_signature

_FILE = "model.pt2"


@dataclass(frozen=True, kw_only=True)
class Eager(Runtime):
    """PyTorch, operator by operator, in float32 on the exported program. Load it in a process of its own: threads are process-wide."""

    name: ClassVar[str] = "eager"
    defines_right: ClassVar[bool] = True
    floor: ClassVar[Floor] = Floor.MODULE
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    threads: int = option(0, "Threads that one operator may use. 0: the target's.", choices=(0, 1), low=0)

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        return missing("torch")

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        link_or_copy(candidate.path, folder / _FILE)
        write_signature(candidate.signature, folder)

    def load(self, folder: Path, target: Target) -> Program:
        torch = need("torch", why="by the runtime eager")
        signature = read_signature(folder)
        torch.set_num_threads(self.num_threads(target))
        try:
            exported = torch.export.load(folder / _FILE)
        except Exception as error:  # torch.export documents no error types
            raise BundleError(f"program {_FILE}", f"must be a torch exported program ({type(error).__name__})") from error
        return _Exported(torch, exported, signature)


class _Exported(Program):
    def __init__(self, torch: Any, exported: Any, signature: Signature) -> None:
        self._torch, self._signature = torch, signature
        self._arrange, self._flatten = _call_convention(torch, exported)
        self._forward = _without_overhead(exported)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        tensors = [self._torch.from_numpy(_writable(inputs[spec.name])) for spec in self._signature.inputs]
        with self._torch.inference_mode():
            args, kwargs = self._arrange(tensors)
            outputs = self._flatten(self._forward(*args, **kwargs))
        # An output may be a view of an input or of a weight; the caller's must not change under it.
        return {
            spec.name: np.array(tensor.numpy(), dtype=spec.dtype) for spec, tensor in zip(self._signature.outputs, outputs, strict=True)
        }


def _call_convention(torch: Any, exported: Any) -> tuple[Callable[[list[Any]], Any], Callable[[Any], list[Any]]]:
    """How to turn a flat list of tensors into (args, kwargs), and outputs back into a list."""
    pytree = torch.utils._pytree
    spec = exported.call_spec.in_spec
    return lambda tensors: pytree.tree_unflatten(tensors, spec), pytree.tree_leaves


def _without_overhead(exported: Any) -> Callable[..., Any]:
    """The exported program's forward, as fast as the user's own module.

    A graph module looks up every weight through nn.Module.__getattr__ and checks its guards at each call, which makes
    a small network up to half as slow again as the module that it was exported from. The signature has been checked already.
    """
    module = exported.module(check_guards=False)
    for part in module.modules():
        vars(part).update({**part._parameters, **part._buffers, **part._modules})
    forward: Callable[..., Any] = module.forward
    return forward


def _writable(array: np.ndarray) -> np.ndarray:
    """torch warns about sharing read-only memory."""
    contiguous = np.ascontiguousarray(array)
    return contiguous if contiguous.flags.writeable else contiguous.copy()
