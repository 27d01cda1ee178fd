"""A model in an .onnx file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.callables import one_line
from ..core.candidate import Candidate, Floor, Step
from ..core.digest import digest_json, sha256_file
from ..core.errors import DataError, ModelError
from ..core.job import Job
from ..core.need import need
from ..core.seams import Arrays, Loader
from ..core.signature import Signature, TensorSpec
from ..measure.naming import name_nodes

_QUANTIZED = frozenset({"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulNBits"})
_MAX_PROTOBUF_BYTES = 2_000_000_000  # beyond it, weights must lie beside the graph


@dataclass(frozen=True, kw_only=True)
class OnnxFile(Loader):
    """Checks the file, runs it on real samples, and makes a batch axis fixed at 1 free where the results stay the same."""

    name: ClassVar[str] = "onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx",)

    def fits(self, job: Job) -> str | None:
        source = job.model.source
        return None if job.model.module is None and source is not None and source.endswith(".onnx") else "model.source must end with .onnx"

    def open(self, job: Job, example: Arrays, folder: Path) -> Candidate:
        source = job.model.source or ""
        if job.model.weights is not None:
            raise ModelError("model.weights", "must not be given with an ONNX file, which holds its weights", got=job.model.weights)
        model = _read(source, job.path(source))
        inputs = tuple(_spec(source, value) for value in _free_inputs(model))
        samples = Signature(inputs=inputs, outputs=()).check(_bind(example, [spec.name for spec in inputs]))
        path = folder / "model.onnx"
        signature = _write(source, model, inputs, samples, path)
        return Candidate(
            floor=Floor.GRAPH,
            path=path,
            signature=signature,
            lineage=(Step(name=self.name, options={"digest": _digest(job.path(source))}),),
            facts=_facts(model),
        )


def _read(source: str, path: Path) -> Any:
    onnx = need("onnx", why="to open ONNX files")
    if not path.is_file():
        raise ModelError("model.source", "must be a file that exists", got=source, hint="Paths start at the folder of the job file")
    try:
        model = onnx.load(str(path))
        if not model.graph.node:
            raise ModelError(source, "must hold a graph with at least one operator")
        newest = onnx.defs.onnx_opset_version()
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        if opset > newest:
            raise ModelError(source, f"must use an opset of at most {newest}", got=opset, hint="Export it with a lower opset_version")
        onnx.checker.check_model(str(path))
    except ModelError:
        raise
    except onnx.checker.ValidationError as error:
        raise ModelError(source, f"must be a valid ONNX model ({str(error).split('==> Context')[0].strip()})") from error
    except Exception as error:  # protobuf and the file system have no common base
        raise ModelError(source, f"must be an ONNX file ({one_line(error)})") from error
    _check_weights(source, model)
    name_nodes(model)
    return model


def _check_weights(source: str, model: Any) -> None:
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ModelError(f"{source}, weight {tensor.name!r}", "must be finite", got="NaN")


def _facts(model: Any) -> frozenset[str]:
    """What is true of the model already: somebody may have quantised it."""
    kinds = {node.op_type for node in model.graph.node}
    facts = {"int8-weights"} if kinds & _QUANTIZED else set()
    return frozenset(facts | ({"qdq"} if "DequantizeLinear" in kinds else set()))


def _free_inputs(model: Any) -> list[Any]:
    """The inputs that are given with each call; older files list their weights as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _spec(source: str, value: Any) -> TensorSpec:
    """What the graph says about an input; the batch axis is taken as free for now."""
    from onnx import helper

    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape") or len(kind.shape.dim) == 0:
        raise ModelError(f"{source}, input {value.name!r}", "must be a tensor whose first axis is the batch")
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return TensorSpec(name=value.name, dtype=str(dtype), shape=(None, *_sizes(value)[1:]))


def _sizes(value: Any) -> list[int | None]:
    """The length of each axis as the graph declares it; None where it is free."""
    return [dim.dim_value if _is_fixed(dim) else None for dim in value.type.tensor_type.shape.dim]


def _is_fixed(dim: Any) -> bool:
    """Some converters write -1 for an axis of any length."""
    return bool(dim.HasField("dim_value") and dim.dim_value >= 0)


def _bind(example: Arrays, names: list[str]) -> dict[str, np.ndarray]:
    if set(example) == {""} and len(names) == 1:
        return {names[0]: example[""]}
    for name in example:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            rule = f"must be one of the model's inputs {', '.join(names)}"
            raise DataError(f"input {name!r}", rule, hint=f"Did you mean {near[0]!r}?" if near else "Rename it in the data")
    return dict(example)


def _write(source: str, model: Any, inputs: tuple[TensorSpec, ...], samples: Mapping[str, np.ndarray], path: Path) -> Signature:
    """Write the model with a free batch axis where that works, else with the fixed one; what it computes decides."""
    declared = [_sizes(value)[0] for value in _free_inputs(model)]
    fixed = max((size for size in declared if size is not None), default=1)
    if fixed == 1:
        free = _with_batch(model, None) if 1 in declared else model
        _save(free, path)
        if outputs := _batched_outputs(path, samples):
            return Signature(inputs=inputs, outputs=_output_specs(source, free, inputs, outputs, batch=None))
    _save(_with_batch(model, fixed), path)
    rows = {name: np.resize(array, (fixed, *array.shape[1:])) for name, array in samples.items()}
    outputs = _run(source, _session(source, path), rows)
    specs = tuple(TensorSpec(name=s.name, dtype=s.dtype, shape=(fixed, *s.shape[1:])) for s in inputs)
    return Signature(inputs=specs, outputs=_output_specs(source, model, inputs, outputs, batch=fixed))


def _with_batch(model: Any, batch: int | None) -> Any:
    """A copy whose inputs and outputs have the batch axis `batch`; None makes a fixed 1 free."""
    copy = type(model)()
    copy.CopyFrom(model)
    used = {dim.dim_param for value in [*copy.graph.input, *copy.graph.output] for dim in value.type.tensor_type.shape.dim}
    free = next(name for name in ("N", "batch", "batch_axis") if name not in used)
    for value in [*_free_inputs(copy), *copy.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if batch is not None and dims and not _is_fixed(dims[0]):
            dims[0].dim_value = batch
        elif batch is None and dims and (dims[0].dim_value == 1 or not _is_fixed(dims[0])):
            dims[0].dim_param = free
    del copy.graph.value_info[:]
    return copy


def _save(model: Any, path: Path) -> None:
    """One file, or with the weights beside it where they are too large for one."""
    import onnx

    beside = model.ByteSize() > _MAX_PROTOBUF_BYTES
    copy = type(model)()  # saving beside moves the weights out of the model that is given
    copy.CopyFrom(model)
    for file in (path, path.with_suffix(".onnx.data")):
        file.unlink(missing_ok=True)  # external data are appended to what is there
    onnx.save(copy, str(path), save_as_external_data=beside, location=f"{path.name}.data" if beside else None)


def _session(source: str, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base
        reason = one_line(error)
        reason = reason.partition(" failed:")[2] or reason  # without the name of our own copy
        raise ModelError(source, f"must load in ONNX Runtime ({reason})") from error


def _run(source: str, session: Any, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        outputs = session.run(None, dict(rows))
    except Exception as error:  # as above
        raise ModelError(source, f"must run on the data ({one_line(error)})") from error
    return {spec.name: output for spec, output in zip(session.get_outputs(), outputs, strict=True)}


def _batched_outputs(path: Path, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The outputs for two samples at once, or None where they are not those of one sample after the other."""
    try:
        session = _session("", path)
        both = _run("", session, {name: array[:2] for name, array in samples.items()})
        singles = [_run("", session, {name: array[i : i + 1] for name, array in samples.items()}) for i in range(2)]
    except ModelError:
        return None
    for name, output in both.items():
        if not isinstance(output, np.ndarray) or output.ndim == 0 or len(output) != 2:
            return None
        apart = [single[name] for single in singles]
        if any(a.shape != output[:1].shape for a in apart) or not _close(output, np.concatenate(apart)):
            return None
    return both


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind != "f":
        return bool((a == b).all())
    size = float(np.abs(b[np.isfinite(b)]).max(initial=1e-6))
    return np.allclose(a, b, rtol=1e-3, atol=1e-4 * size, equal_nan=True)


def _output_specs(
    source: str, model: Any, inputs: tuple[TensorSpec, ...], outputs: Mapping[str, Any], *, batch: int | None
) -> tuple[TensorSpec, ...]:
    free_axes = any(None in spec.shape[1:] for spec in inputs)  # then those of the outputs may be free as well
    declared = {value.name: _sizes(value) for value in model.graph.output}
    specs = []
    for name, output in outputs.items():
        where = f"{source}, output {name!r}"
        if not isinstance(output, np.ndarray) or output.ndim == 0 or (batch is not None and len(output) != batch):
            shape = getattr(output, "shape", type(output).__name__)
            raise ModelError(where, "must be a tensor whose first axis is the batch", got=shape)
        if output.dtype.kind == "f" and np.isnan(output).any():
            raise ModelError(where, "must be finite on the data", got="NaN")
        rest = output.shape[1:]
        if free_axes:
            rest = tuple(declared[name][1:]) if len(declared[name]) == output.ndim else (None,) * len(rest)
        specs.append(TensorSpec(name=name, dtype=str(output.dtype), shape=(batch, *rest)))
    return tuple(specs)


def _digest(path: Path) -> str:
    """The content: the file, and the files beside it that it names."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    names = {entry.value for tensor in _tensors(graph) for entry in tensor.external_data if entry.key == "location"}
    return digest_json([sha256_file(path), *(sha256_file(path.parent / name) for name in sorted(names))])


def _tensors(model: Any) -> Iterator[Any]:
    from onnx.external_data_helper import _get_all_tensors

    yield from _get_all_tensors(model)
