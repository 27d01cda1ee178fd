"""PyTorch as the user wrote it: the reference that defines what is right."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.errors import BundleError
from ..core.need import missing, need
from ..core.seams import Arrays, OperatorTime, Program, Runtime, Target, option
from ..core.signature import Signature
from ._folder import link_or_copy, read_signature, write_signature

_FILE = "model.pt2"
_WARM_UP_CALLS = 3
# PyTorch's operators -> ONNX words.
_KINDS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), "Conv"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "ConvTranspose"),
    **dict.fromkeys(("linear", "addmm"), "Gemm"),
    **dict.fromkeys(("matmul", "mm", "bmm"), "MatMul"),
    **dict.fromkeys(("relu", "relu_"), "Relu"),
    **dict.fromkeys(("add", "add_"), "Add"),
    **dict.fromkeys(("mul", "mul_"), "Mul"),
    **dict.fromkeys(("hardtanh", "hardtanh_", "clamp", "relu6"), "Clip"),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), "BatchNormalization"),
    **dict.fromkeys(("layer_norm", "native_layer_norm"), "LayerNormalization"),
    **dict.fromkeys(("mean", "adaptive_avg_pool2d"), "ReduceMean"),
    "max_pool2d": "MaxPool",
    "avg_pool2d": "AveragePool",
    "scaled_dot_product_attention": "Attention",
    "embedding": "Gather",
    "softmax": "Softmax",
    "gelu": "Gelu",
    "silu": "Swish",
    "cat": "Concat",
}


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
        return _Exported(torch, self._exported(torch, folder, target), signature)

    def operator_times(self, folder: Path, target: Target, inputs: Arrays, num_calls: int) -> tuple[OperatorTime, ...]:
        torch = need("torch", why="by the runtime eager")
        signature, exported = read_signature(folder), self._exported(torch, folder, target)
        stopwatch = _stopwatch(torch, exported.module(check_guards=False))
        tensors = [torch.from_numpy(_writable(inputs[spec.name])) for spec in signature.inputs]
        with torch.inference_mode():
            calls = [_laps(stopwatch, tensors) for _ in range(_WARM_UP_CALLS + num_calls)][_WARM_UP_CALLS:]
        return tuple(
            OperatorTime(
                name=name,
                kind=_KINDS.get(kind, kind),
                seconds=statistics.median(call[place][3] for call in calls),
                nodes=(name,),
                start_seconds=statistics.median(call[place][2] for call in calls),
            )
            for place, (name, kind, _, _) in enumerate(calls[0])
        )

    def _exported(self, torch: Any, folder: Path, target: Target) -> Any:
        torch.set_num_threads(self.num_threads(target))
        try:
            return torch.export.load(folder / _FILE)
        except Exception as error:  # torch.export documents no error types
            raise BundleError(f"program {_FILE}", f"must be a torch exported program ({type(error).__name__})") from error


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


def _stopwatch(torch: Any, module: Any) -> Any:
    """Runs the module node by node; `laps` holds each operator: its node, what it does, when it began, and the seconds it took."""

    class Stopwatch(torch.fx.Interpreter):  # type: ignore[misc]
        laps: list[tuple[str, str, float, float]]

        def run_node(self, n: Any) -> Any:
            began = time.perf_counter()
            result = super().run_node(n)
            took = time.perf_counter() - began
            if isinstance(n.target, torch._ops.OpOverload):  # arithmetic on shapes is Python's
                self.laps.append((n.name, n.target.overloadpacket.__name__, began, took))
            return result

    return Stopwatch(module)


def _laps(stopwatch: Any, tensors: list[Any]) -> list[tuple[str, str, float, float]]:
    stopwatch.laps = []
    stopwatch.run(*tensors)
    first = stopwatch.laps[0][2] if stopwatch.laps else 0.0
    return [(name, kind, began - first, took) for name, kind, began, took in stopwatch.laps]


def _writable(array: np.ndarray) -> np.ndarray:
    """torch warns about sharing read-only memory."""
    contiguous = np.ascontiguousarray(array)
    return contiguous if contiguous.flags.writeable else contiguous.copy()
