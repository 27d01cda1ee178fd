"""Opens a job: reads the data, divides it, and loads the model, in a child process where the job names files."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, JobError
from ..core.job import Job
from ..core.preprocess import ImagePreprocess
from ..core.registry import find
from ..core.samples import Samples, Splits, as_parts, make_splits
from ..core.seams import Loader, Reader
from ..core.signature import TensorSpec
from ..core.store import Store
from ..core.workload import Workload
from ..measure.worker import State, Worker
from .workshop import keep_original

_EXAMPLE = 4  # samples that the loader sees: more than one, so that the batch axis shows


def open_workload(job: Job, store: Store) -> Workload:
    """The workload of a job. Raises JobError, DataError, ModelError, ExportError, MissingExtra."""
    with tempfile.TemporaryDirectory(dir=store.root / "tmp") as scratch:
        folder = Path(scratch)
        if job.model.module is not None or job.data.content is not None:
            workload = _open({}, job, folder)  # objects of the caller's process stay in it
        else:
            with Worker("open", threads=1) as worker:
                workload = worker.call(_open, job, folder)
        return _with_original(workload, store)


def read_splits(job: Job) -> Splits:
    """The three splits of a job's data."""
    data = job.data
    if data.content is not None:
        return make_splits(as_parts(data.content), seed=job.search.seed)
    if data.source is not None:
        return make_splits(_read(job, data.source), seed=job.search.seed)
    parts: dict[str, Samples] = {}
    for name in ("calibrate", "select", "certify"):
        read = _read(job, getattr(data, name))
        if set(read) != {"all"}:
            raise DataError(f"data.{name}", "must give one set", got=sorted(read))
        parts[name] = read["all"]
    return make_splits(parts, seed=job.search.seed)


def _open(state: State, job: Job, folder: Path) -> Workload:
    splits = read_splits(job)
    example = _example(splits.calibrate, job.data.preprocess)
    loader = _loader(job)
    original = loader.open(job, example, folder)
    outputs = [spec.name for spec in original.signature.outputs]
    output = job.quality.output or outputs[0]
    if output not in outputs:
        raise JobError("quality.output", f"must be one of the model's outputs {', '.join(outputs)}", got=output)
    return Workload(
        name=_name(job),
        original=original,
        splits=splits,
        preprocess=job.data.preprocess,
        labels=job.data.labels or splits.certify.classes or None,
        output=output,
    )


def _read(job: Job, source: str) -> Any:
    path, reasons = job.path(source), []
    for kind in find(Reader).values():
        reader = kind()
        why_not = reader.fits(source, path)
        if why_not is None:
            return reader.read(source, path, job.data)
        reasons.append(f"{kind.name}: {why_not}")
    raise JobError("data.source", "must be a callable, .npz, .parquet, .csv or a folder of class folders", got=source)


def _loader(job: Job) -> Loader:
    for kind in find(Loader).values():
        loader = kind()
        if loader.fits(job) is None:
            return loader
    raise JobError("model.source", "must be an .onnx file or a callable such as model.py:build", got=job.model.source)


def _example(samples: Samples, preprocess: ImagePreprocess | None) -> dict[str, np.ndarray]:
    few = samples.take(np.arange(min(_EXAMPLE, len(samples))))
    if preprocess is None:
        return {name: np.asarray(values) for name, values in few.inputs.items()}
    if len(few.inputs) != 1:
        raise DataError("data.preprocess", "is for data with one input, pictures", got=", ".join(few.inputs))
    return {name: preprocess(values) for name, values in few.inputs.items()}


def _with_original(workload: Workload, store: Store) -> Workload:
    return replace(workload, original=keep_original(store, workload.original))


def _name(job: Job) -> str:
    if job.model.module is not None:
        return type(job.model.module).__name__
    source = str(job.model.source)
    file, _, function = source.partition(":")
    stem = Path(file).stem
    return stem if not function or function in ("model", "build") else f"{stem}-{function}"


def output_spec(workload: Workload) -> TensorSpec:
    """The output that is judged."""
    return next(spec for spec in workload.original.signature.outputs if spec.name == workload.output)
