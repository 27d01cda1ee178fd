"""Opens a job: reads the data, divides it, and loads the model, in a child process where the job names files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.write import check_place
from ..core.callables import is_callable_source, one_line, resolve
from ..core.candidate import Candidate
from ..core.errors import DataError, DiskFull, HastenError, JobError, ModelError, NotPossibleHere
from ..core.job import Job, ModelSection
from ..core.machine import this_machine
from ..core.preprocess import ImagePreprocess, open_picture
from ..core.registry import find
from ..core.samples import SPLITS, Samples, Splits, as_parts, make_splits
from ..core.seams import Loader, Profile, Reader, Target
from ..core.signature import TensorSpec
from ..core.store import Store
from ..core.workload import Workload
from ..measure import errands
from ..measure.energy import Source, find_source
from ..measure.quality import Metric, default_metric, get_metric
from ..measure.worker import State, Worker
from ..train.served import Served
from .crew import Crew
from .space import make_space
from .workshop import keep_original, preprocessed

_COMPARED = 16  # pictures on which the declared preprocessing is compared with the user's own
_TRANSFORM_TOLERANCE = 1e-3
_EXAMPLE = 4  # samples that the loader sees: more than one, so that the batch axis shows


def check_request(job: Job, target: Target, out: Path | None) -> None:
    """What can be refused before anything is read or started: names, runtimes, the place of the answer. Raises HastenError."""
    if job.quality.metric is not None:
        get_metric(job.quality.metric)
    make_space(job, target, Profile(machine=this_machine(), target=target))
    if out is not None:
        check_place(out)


def energy_source(job: Job, target: Target, crew: Crew | None = None) -> Source:
    """How the energy of a call is known where `crew` times (None: here). Raises NotPossibleHere where the job wants it
    minimised or limited and it is unknown, WorkerError."""
    about = (target.device, job.target.watts_per_core)
    source = find_source(*about) if crew is None else crew.on_target(errands.find_energy, *about)
    wish = "search.objective" if job.search.objective == "energy" else "limits.energy_mj" if job.limits.energy_mj is not None else None
    if wish is not None and source.label == "unknown":
        hint = "For an estimate set target.watts_per_core to the watts that one busy core draws"
        raise NotPossibleHere(wish, f"needs the energy of a call, which is unknown here: {source.how}", hint=hint)
    return source


def open_workload(job: Job, store: Store) -> Workload:
    """The workload of a job. Raises JobError, DataError, ModelError, ExportError, MissingExtra."""
    with store.scratch() as folder:
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
    parts = dict(_read(job, data.source)) if data.source is not None else {}
    wanted = (*(() if parts else SPLITS), *(("train",) if job.train.budget else ()))
    for name in wanted:
        if (source := getattr(data, name)) is not None:
            read = _read(job, source)
            if set(read) != {"all"}:
                raise DataError(f"data.{name}", "must give one set", got=sorted(read))
            parts[name] = read["all"]
    return make_splits(parts, seed=job.search.seed)


def _open(state: State, job: Job, folder: Path) -> Workload:
    loader = _loader(job)
    splits = read_splits(job)
    example = _example(splits.calibrate, job.data.preprocess)
    _check_transform(job, splits.calibrate)
    original = loader.open(job, example, _made(folder / "original"))
    outputs = [spec.name for spec in original.signature.outputs]
    output = job.quality.output or outputs[0]
    if output not in outputs:
        raise JobError("quality.output", f"must be one of the model's outputs {', '.join(outputs)}", got=output)
    labels = job.data.labels or splits.certify.classes or None
    _check_labels(labels, original.signature.outputs[outputs.index(output)])
    return Workload(
        name=_name(job),
        original=original,
        splits=splits,
        preprocess=job.data.preprocess,
        labels=labels,
        output=output,
        teacher=_teacher(job, original, example, folder) if job.train.budget and job.train.teacher else None,
    )


def _teacher(job: Job, original: Candidate, example: Mapping[str, np.ndarray], folder: Path) -> Candidate | str:
    """The other model that teaches. Raises JobError, ModelError, WorkerError."""
    source = str(job.train.teacher)
    if source.startswith(("http://", "https://")):
        with Served(source, original.signature) as served:
            served.ask({spec.name: example[spec.name] for spec in original.signature.inputs})
        return source
    if not is_callable_source(source):
        raise JobError("train.teacher", "must be file.py:function or http(s)://host:port/MODEL", got=source)
    asked = job.model_copy(update={"model": ModelSection(source=source)})
    try:
        teacher = _loader(asked).open(asked, example, _made(folder / "teacher"))
    except DiskFull:
        raise
    except HastenError as error:
        raise ModelError("train.teacher", f"must be a model that hasten can open ({error})", got=source) from error
    for side in ("inputs", "outputs"):
        ours, theirs = ([[spec.name, spec.shape[1:]] for spec in getattr(one.signature, side)] for one in (original, teacher))
        if theirs != ours:
            raise JobError("train.teacher", f"must have the {side} of the model, {ours}", got=theirs)
    return teacher


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _check_transform(job: Job, samples: Samples) -> None:
    """The declared preprocessing computes what the user's own transform computes, where one is given. Raises DataError."""
    preprocess, source = job.data.preprocess, job.data.transform
    if source is None:
        return
    if preprocess is None:
        raise JobError("data.transform", "is compared with data.preprocess, which is missing", hint="Declare it in [data.preprocess]")
    transform = resolve(source, job.folder, field="data.transform")
    pictures = next(iter(samples.take(np.arange(min(_COMPARED, len(samples)))).inputs.values()))
    for number, picture in enumerate(pictures):
        try:
            theirs = np.asarray(transform(open_picture(picture, preprocess.mode)), dtype=np.float32)
        except Exception as error:  # whatever the user's code raises
            raise DataError("data.transform", f"must take a PIL picture, but raised {one_line(error)}") from error
        ours = preprocess.one(picture)
        if ours.shape != theirs.shape:
            raise DataError("data.transform", f"must give the shape that preprocess gives, {ours.shape}", got=theirs.shape)
        worst = float(np.abs(ours - theirs).max())
        if not worst <= _TRANSFORM_TOLERANCE:
            raise DataError(
                "data.preprocess",
                f"must agree with {source} to {_TRANSFORM_TOLERANCE:g}",
                got=f"a difference of {worst:.3g} in sample {number}",
                hint="Compare resize, crop, interpolation, mean and std",
            )


def _check_labels(labels: tuple[str, ...] | None, output: TensorSpec) -> None:
    classes = output.shape[1] if len(output.shape) == 2 else None
    if labels is not None and classes is not None and classes > 1 and len(labels) != classes:
        raise DataError("data.labels", f"must name each of the {classes} classes of the output {output.name!r}", got=f"{len(labels)} names",
                        hint="List all class names in data.labels, in the order of the outputs")  # fmt: skip


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
        if not all(isinstance(values, np.ndarray) for values in few.inputs.values()):
            raise DataError("data.preprocess", "must be given, since the data are pictures", hint="`hasten show job` lists its keys")
        return {name: np.asarray(values) for name, values in few.inputs.items()}
    if len(few.inputs) != 1:
        raise DataError("data.preprocess", "is for data with one input, pictures", got=", ".join(few.inputs))
    return {name: preprocessed(preprocess, values, few, 0) for name, values in few.inputs.items()}


def _with_original(workload: Workload, store: Store) -> Workload:
    teacher = workload.teacher
    kept = keep_original(store, teacher) if isinstance(teacher, Candidate) else teacher
    return replace(workload, original=keep_original(store, workload.original), teacher=kept)


def _name(job: Job) -> str:
    if job.model.module is not None:
        return type(job.model.module).__name__
    source = str(job.model.source)
    file, _, function = source.partition(":")
    stem = Path(file).stem
    return stem if not function or function in ("model", "build") else f"{stem}-{function}"


def choose_metric(job: Job, workload: Workload) -> Metric:
    """The metric of the job, or the default, which must suit the labels. Raises JobError, DataError.

    What only real outputs tell (a logit or a probability?) the judge checks.
    """
    output = output_spec(workload)
    metric = get_metric(job.quality.metric) if job.quality.metric else default_metric(workload.splits.certify.labels, output)
    row = [size for size in output.shape[1:] if size is not None]
    if len(row) == len(output.shape) - 1:
        for split in SPLITS:
            samples = workload.splits[split]
            metric.check(np.broadcast_to(np.asarray(-1).astype(output.dtype), (len(samples), *row)), samples.labels)
    return metric


def output_spec(workload: Workload) -> TensorSpec:
    """The output that is judged."""
    return next(spec for spec in workload.original.signature.outputs if spec.name == workload.output)
