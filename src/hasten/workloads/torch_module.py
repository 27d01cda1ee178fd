"""A torch.nn.Module: from a function of the user, or given in Python."""

from __future__ import annotations

import contextlib
import copy
import difflib
import inspect
import linecache
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..core.callables import call, is_callable_source, one_line
from ..core.candidate import Candidate, Floor, Step
from ..core.digest import digest_bytes, digest_json
from ..core.errors import DataError, ExportError, HastenError, ModelError
from ..core.job import Job
from ..core.need import need
from ..core.seams import Arrays, Loader
from ..core.signature import Signature, TensorSpec

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-5  # of the largest output: how far the exported program may be from the module


@dataclass(frozen=True, kw_only=True)
class TorchModule(Loader):
    """Builds the module, loads its weights, runs it on real samples, and exports it with a free batch axis if it can.

    Exported programs take their inputs by position, in the order of the signature.
    """

    name: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def fits(self, job: Job) -> str | None:
        if job.model.module is not None or is_callable_source(job.model.source):
            return None
        return "model.source must be file.py:function or package.module:function"

    def open(self, job: Job, example: Arrays, folder: Path) -> Candidate:
        need("torch", why="to open PyTorch models")
        where = job.model.source or "model"
        module = _build(job)
        with _evaluating(module):
            _check_weights(where, module)
            names = _bind(example, module)
            args = _tensors([example[key] for key in names.values()], module)
            outputs, fields = _run_checked(where, module, list(names), args)
            if _needs_adapter(module, list(names), outputs):
                module = _adapter(module, list(names))
            exported, batch = _export(where, module, args)
        import torch

        path = folder / "model.pt2"
        torch.export.save(exported, path)
        signature = Signature(
            inputs=tuple(_spec(name, value, batch) for name, value in zip(names, args, strict=True)),
            outputs=tuple(_spec(name, value, batch) for name, value in zip(fields, _flat(outputs), strict=True)),
        )
        return Candidate(
            floor=Floor.MODULE, path=path, signature=signature, lineage=(Step(name=self.name, options={"digest": _digest(exported)}),)
        )


# Building ---------------------------------------------------------------------------------------------------------


def _build(job: Job) -> torch.nn.Module:
    from torch import nn

    module, source = job.model.module, job.model.source
    if module is None:
        module = call(source or "", job.folder, field="model.source", what="a torch.nn.Module", error=ModelError)
    elif job.model.weights is not None:
        module = copy.deepcopy(module)  # the user's own keeps its weights
    if not isinstance(module, nn.Module):
        hint = "Return the model itself, not its weights" if isinstance(module, Mapping) else ""
        raise ModelError(source or "model", "must be a torch.nn.Module", got=f"an object of type {type(module).__name__}", hint=hint)
    if job.model.weights is not None:
        _load_weights(module, job.model.weights, job.path(job.model.weights))
    return module


def _load_weights(module: torch.nn.Module, source: str, path: Path) -> None:
    """Strictly: each name must be there, none may be left over, and the shapes must agree."""
    if path.suffix != ".safetensors":
        raise ModelError("model.weights", "must be a .safetensors file, since other formats can run code", got=source,
                         hint="Write it with safetensors.torch.save_file(model.state_dict(), PATH)")  # fmt: skip
    if not path.is_file():
        raise ModelError("model.weights", "must be a file that exists", got=source, hint="Paths start at the folder of the job file")
    try:
        weights: dict[str, torch.Tensor] = need("safetensors.torch").load_file(path)
    except Exception as error:  # the library raises its own class, OSError or ValueError
        raise ModelError("model.weights", f"must be a .safetensors file ({one_line(error)})") from error
    state = module.state_dict()
    there = {state[name].data_ptr() for name in weights if name in state}  # tied weights are stored once
    lacking = [n for n, t in state.items() if n not in weights and t.data_ptr() not in there and not n.endswith("num_batches_tracked")]
    if lacking:
        raise ModelError("model.weights", f"must hold all weights of the model, but lacks {_some(lacking)}")
    if extra := [name for name in weights if name not in state]:
        raise ModelError("model.weights", f"must hold only weights of the model, but has {_some(extra)}")
    for name, tensor in weights.items():
        if tensor.shape != state[name].shape:
            raise ModelError(f"model.weights, {name!r}", f"must have shape {tuple(state[name].shape)}", got=tuple(tensor.shape))
    module.load_state_dict(weights, strict=False)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _check_weights(where: str, module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not parameter.detach().isfinite().all():
            raise ModelError(f"{where}, parameter {name!r}", "must be finite", got="NaN or infinity")
    for name, buffer in module.named_buffers():  # infinity is what masks are made of
        if buffer.is_floating_point() and buffer.isnan().any():
            raise ModelError(f"{where}, buffer {name!r}", "must be finite", got="NaN")


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: each part goes back to the mode it was in."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


# Inputs and outputs -----------------------------------------------------------------------------------------------


def _parameters(module: torch.nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(module.forward).parameters.values())


def _bind(example: Arrays, module: torch.nn.Module) -> dict[str, str]:
    """Which entry of `example` each parameter of forward takes, in the order of forward."""
    parameters = _parameters(module)
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names = [p.name for p in named]
    if set(example) == {""}:
        bound = {names[0] if names else "input": ""}
    else:
        unknown = [name for name in example if name not in names]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            near = difflib.get_close_matches(unknown[0], names, n=1)
            way = f"Did you mean {near[0]!r}?" if near else "Rename it in the data"
            raise DataError(f"input {unknown[0]!r}", f"must be a parameter of the model's forward({', '.join(names)})", hint=way)
        bound = {name: name for name in [*(n for n in names if n in example), *unknown]}
    for parameter in named:
        if parameter.name not in bound and parameter.default is parameter.empty:
            raise DataError(f"input {parameter.name!r}", f"must be in the data, since the model is called as forward({', '.join(names)})",
                            hint=f"The data have {', '.join(repr(n) if n else 'one input without a name' for n in example)}")  # fmt: skip
    return bound


def _tensors(arrays: Sequence[np.ndarray], module: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """At most three samples; numbers with a fraction get the dtype of the parameters."""
    import torch

    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    tensors = (torch.from_numpy(np.array(array[:3])) for array in arrays)  # a copy: examples may be read-only
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def _run_checked(where: str, module: torch.nn.Module, names: Sequence[str], args: Sequence[torch.Tensor]) -> tuple[Any, list[str]]:
    """What the module returns for the samples, and the names of the outputs. Raises ModelError for what cannot be used."""
    output = _call(where, module, names, args)
    fields = _output_names(where, output)
    again = _flat(_call(where, module, names, args))
    for name, first, second in zip(fields, _flat(output), again, strict=True):
        side = where if name == "output" else f"{where}, output {name!r}"
        if first.ndim == 0 or len(first) != len(args[0]):
            raise ModelError(side, "must return the batch as the first axis", got=tuple(first.shape))
        if first.is_floating_point() and first.isnan().any():
            raise ModelError(side, "must be finite on the data", got="NaN")
        if not first.equal(second):
            raise ModelError(side, "must return the same for the same input", got="two different outputs",
                             hint="Remove what is random in evaluation mode")  # fmt: skip
        if not hasattr(np, str(first.dtype).removeprefix("torch.").replace("bool", "bool_")):
            raise ModelError(side, "must have a dtype that numpy knows", got=str(first.dtype), hint="Convert it with .float()")
    return output, fields


def _call(where: str, module: torch.nn.Module, names: Sequence[str], args: Sequence[torch.Tensor]) -> Any:
    import torch

    positional = any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) for p in _parameters(module))
    try:
        with torch.no_grad():
            return module(*args) if positional else module(**dict(zip(names, args, strict=True)))
    except HastenError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{n} {str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for n, t in zip(names, args, strict=True))
        raise ModelError(where, f"must run on the data ({shapes}), but raised {one_line(error)}") from error


def _output_names(where: str, output: Any) -> list[str]:
    import torch

    if isinstance(output, torch.Tensor):
        return ["output"]
    if isinstance(output, tuple | list) and output and all(isinstance(value, torch.Tensor) for value in output):
        return list(getattr(output, "_fields", [f"output_{i}" for i in range(len(output))]))
    got = f"an object of type {type(output).__name__}"
    if isinstance(output, Mapping):
        got += f" with the keys {', '.join(map(str, output))}"
    raise ModelError(where, f"must return a tensor or a tuple of tensors, but returned {got}",
                     hint="Wrap the model in a module whose forward returns the values that count as a tuple")  # fmt: skip


def _flat(output: Any) -> list[torch.Tensor]:
    return list(output) if isinstance(output, tuple | list) else [output]


def _spec(name: str, value: torch.Tensor, batch: int | None) -> TensorSpec:
    return TensorSpec(name=name, dtype=str(value.dtype).removeprefix("torch."), shape=(batch, *value.shape[1:]))


# Exporting --------------------------------------------------------------------------------------------------------


def _needs_adapter(module: torch.nn.Module, names: Sequence[str], output: Any) -> bool:
    """Whether the module cannot be called as f(*inputs) -> tensor or plain tuple."""
    leading = [p.name for p in _parameters(module) if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(names)]
    return list(names) != leading or isinstance(output, list) or hasattr(output, "_fields")


def _adapter(module: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    from torch import nn

    positional = any(p.kind is p.VAR_POSITIONAL for p in _parameters(module))

    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *inputs: Any) -> Any:
            output = self.model(*inputs) if positional else self.model(**dict(zip(names, inputs, strict=True)))
            return tuple(output) if isinstance(output, tuple | list) else output

    return Adapter().eval()


def _export(where: str, module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[Any, int | None]:
    """The exported program and its batch size: None where it is free, else 1. Raises ExportError."""
    import torch

    batch = torch.export.Dim("batch")
    free = tuple({0: batch} for _ in args)
    single = tuple(value[:1] for value in args)
    first: Exception | None = None
    attempts = ((args, (free,) if _is_variadic(module) else free, None), (single, None, 1))
    for given, dims, fixed in attempts:
        try:
            with _quiet():
                exported = torch.export.export(module, given, dynamic_shapes=dims)
            _same(where, module, exported, single)
        except Exception as error:  # noqa: BLE001  the exporter's errors, and those of the user's code in it, have no common base
            first = first or error  # with a free batch axis the reason is told best
        else:
            return exported, fixed
    assert first is not None
    raise _refusal(where, first) from first


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's log, which prints whole graphs before it raises what we translate."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _is_variadic(module: torch.nn.Module) -> bool:
    """Whether forward takes *inputs, whose dynamic shapes the exporter wants as one tuple."""
    return any(p.kind is p.VAR_POSITIONAL for p in _parameters(module))


def _same(where: str, module: torch.nn.Module, exported: Any, args: tuple[torch.Tensor, ...]) -> None:
    import torch

    with torch.no_grad():
        wanted, got = _flat(module(*args)), _flat(exported.module()(*args))
    for want, have in zip(wanted, got, strict=True):
        size = max(1.0, float(want.abs().max())) if want.is_floating_point() else 1.0
        error = float((want.double() - have.double()).abs().max()) if want.numel() else 0.0
        if want.shape != have.shape or not error <= TOLERANCE * size:
            raise ExportError(where, f"must compute the same once exported, but differs by {error:.2g} at batch size {len(args[0])}",
                              hint="Look for Python values that depend on the batch size or on what is in the input")  # fmt: skip


def _refusal(where: str, error: Exception) -> ExportError:
    if isinstance(error, ExportError):
        return error
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:200]
    return ExportError(
        where,
        f"must be exportable by torch.export, but {_user_line(error) or 'it'} raised {type(error).__name__}: {reason.rstrip('.')}",
        hint="Use tensor operations that do not depend on values (torch.where instead of if), or bring the model as an ONNX file",
    )


def _user_line(error: Exception) -> str:
    """`model.py line 12 (if x.sum() > 0:)`: the deepest line that is neither ours nor torch's."""
    import torch

    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    if not frames:
        return ""
    last = frames[-1]
    text = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f"{Path(last.filename).name} line {last.lineno} ({text})"


def _digest(exported: Any) -> str:
    """The content: every weight, buffer and constant, and the code of the graph."""
    import torch

    def content(tensor: torch.Tensor) -> str:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return digest_bytes(str(tensor.dtype).encode(), str(tuple(tensor.shape)).encode(), data)

    held = {**exported.constants, **exported.state_dict}
    tensors = {name: content(value) for name, value in sorted(held.items()) if isinstance(value, torch.Tensor)}
    return digest_json([tensors, exported.graph_module.code])
