"""The verbs, typed and short: what `import hasten` offers and what the command line calls."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.errors import HastenError, JobError, MissingExtra, NotPossibleHere
from .core.job import Job, Objective
from .serve.options import ServeOptions as ServeOptions

if TYPE_CHECKING:
    import numpy as np

    from .batch.parts import Format
    from .batch.run import Progress
    from .bundle.verify import Proof, Score
    from .core.samples import Samples
    from .core.store import Store
    from .search.front import Front
    from .search.observer import Observer
    from .search.space import PlanLine
    from .tracking.place import Place
    from .tracking.write import Tracked


def optimize(
    model: Any,
    data: Any = None,
    *,
    max_drop: float | None = None,
    budget: str | float | None = None,
    train_budget: str | float | None = None,
    objective: Objective | None = None,
    metric: str | None = None,
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    store: Store | None = None,
    observer: Observer | None = None,
    command: str = "",
) -> Front:
    """Make `model` fast here, and prove that it stayed right.

    Args:
        model: an nn.Module; `file.py:function` or `package.module:function`; the path of an ONNX file; or a Job, which
            says everything itself.
        data: arrays, `(inputs, labels)`, Samples, a mapping of the three splits, a path or a callable's name. One set is
            divided 10/30/60 into calibrate, select and certify.
        max_drop: points of quality that may be lost. Default: 0.5.
        budget: time for the search, seconds or a text such as "5m". Default: 5 minutes.
        train_budget: time for techniques that train, beside it; needs samples to train on, called `train` in `data`. Default: none.
        objective: latency (default), throughput, size, memory or energy.
        metric: what good means. Default: accuracy with class labels, else fidelity to the original.
        threads: that may be used. Default: all cores.
        settings: any other key of the job, such as {"limits.latency_ms": 5.0}; `hasten show job` lists them.
        out: the folder that the bundle is written to. Default: none is written; `front.best.save(folder)` does.
        store: where finished steps are kept. Default: HASTEN_STORE, else the user's cache.
        observer: told what happens, as it happens.
        command: the command that repeats this, for the report.

    Raises:
        HastenError: JobError, DataError, ModelError, NotPossibleHere, MissingExtra or LimitsNotMet.
    """
    from . import engine

    job = as_job(
        model, data, max_drop=max_drop, budget=budget, train_budget=train_budget, objective=objective, metric=metric, threads=threads,
        settings=settings,
    )  # fmt: skip
    place = _place(job)  # a wrong one is an error before the search, not after it
    front = _with_report(engine.run(job, out=None if out is None else Path(out), store=store, observer=observer, command=command), observer)
    return front if place is None else _tracked(front, job, place, observer)


def _with_report(front: Front, observer: Observer | None) -> Front:
    """The front with the report in its bundle, where the packages for it are installed."""
    if front.answer is None:
        return front
    try:
        report = str(write_report(front.answer.bundle))
    except MissingExtra as error:
        if observer is not None:
            observer.warn(str(error))
        report = None
    return replace(front, document={**front.document, "report": report})


def _place(job: Job) -> Place | None:
    """Where the search will be tracked. Raises JobError, MissingExtra."""
    from .tracking.place import Place
    from .tracking.track import check

    if job.tracking.uri is None:
        return None
    check()
    return Place.of(job.tracking.uri, job.folder)


def _tracked(front: Front, job: Job, place: Place, observer: Observer | None) -> Front:
    """The front, after it was written to MLflow. What goes wrong there is told and changes nothing else."""
    from .search.evidence import without_bundle
    from .tracking.track import track as write

    known: dict[str, Any]
    if observer is not None:
        observer.stage("track", f"each candidate as a run in {place.uri}")
    source = without_bundle(job, front.document, front.trials, front.members) if front.answer is None else front.answer.bundle
    try:
        known = asdict(write(source, place, job.tracking.experiment))
    except (HastenError, KeyboardInterrupt) as error:
        known = {"error": str(error) or "interrupted"}
        if observer is not None:
            observer.warn(f"the search was not tracked: {known['error']}")
    return replace(front, document={**front.document, "tracking": known})


def track(bundle: Path | str, *, uri: str | None = None, experiment: str = "hasten") -> Tracked:
    """Write a bundle's search to MLflow: a run for it, one below it for each candidate, and the bundle in the model registry.

    Doing it again changes nothing. The model's newest version has the alias `answer`.

    Args:
        bundle: its folder.
        uri: a folder, sqlite:///FILE, or the address of an MLflow server. Default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db.
        experiment: the experiment of MLflow that the runs belong to.

    Raises:
        HastenError: BundleError, JobError for a wrong `uri`, NotPossibleHere where it cannot be written, MissingExtra.
    """
    from .tracking.place import Place
    from .tracking.track import track as write

    return write(Path(bundle), Place.of(uri), experiment)


def why(model: Any, data: Any = None, *, settings: Mapping[str, Any] | None = None) -> list[PlanLine]:
    """The plan only: each technique and runtime with "ok" or one sentence saying why not. Arguments: as for `optimize`."""
    from . import engine

    return engine.plan(as_job(model, data, settings=settings))


def as_job(
    model: Any,
    data: Any = None,
    *,
    max_drop: float | None = None,
    budget: str | float | None = None,
    train_budget: str | float | None = None,
    objective: str | None = None,
    metric: str | None = None,
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Job:
    """The job that the arguments of `optimize` ask for. Raises JobError."""
    asked = {
        "limits.max_drop": max_drop,
        "search.budget": budget,
        "train.budget": train_budget,
        "search.objective": objective,
        "quality.metric": metric,
        "target.threads": threads,
    }
    overrides = {key: value for key, value in asked.items() if value is not None} | dict(settings or {})
    if isinstance(model, Job):
        if data is not None or overrides:
            given = ", ".join(["data"] * (data is not None) + sorted(overrides))
            raise JobError(
                "optimize", f"takes a Job alone, since it says everything, but {given} was given too", hint="Put it into the job"
            )
        return model
    if data is None:
        raise JobError("data", "must be given", hint="Arrays, (inputs, labels), Samples, a path, or file.py:function")
    named = isinstance(model, str | Path)
    content = {
        "model": {"source": str(model)} if named else {"module": model},
        "data": {"source": str(data)} if isinstance(data, str | Path) else {"content": data},
    }
    return Job.make(content, overrides=overrides)


def verify(bundle: Path | str, *, data: Path | str | None = None) -> list[Proof]:
    """Prove that a bundle is what was certified and that this machine computes the same with it.

    data: the job file or the data source of the certificate, to measure quality again. What does not hold is a Proof that
    is not ok. Raises BundleError where the manifest cannot be trusted, JobError and DataError for what is wrong with `data`.
    """
    from .bundle.verify import verify as prove

    if data is None:
        return prove(Path(bundle))
    samples, score = _certificate(Path(bundle), str(data))
    return prove(Path(bundle), samples=samples, score=score)


def _certificate(bundle: Path, data: str) -> tuple[Samples, Score]:
    """The certify split of a bundle's job, read again from `data`, and the metric of its certificate."""
    from .bundle.read import Bundle
    from .measure.quality import METRICS
    from .search.opening import read_splits

    opened = Bundle.open(bundle)
    metric, output = METRICS[opened.manifest.metric], opened.manifest.output
    if metric.needs == "nothing":
        raise JobError(
            "data", f"cannot be judged again by {metric.name}, which compares with the original model", hint="Verify without data"
        )
    if data.endswith(".toml"):
        job = Job.read(Path(data))
    else:
        asked = next(line["job"] for line in opened.evidence if line["kind"] == "run")
        sections = {name: asked.get(name) or {} for name in ("quality", "limits", "target", "search")}
        same = {k: v for k, v in asked["data"].items() if v is not None and k not in ("source", "calibrate", "select", "certify")}
        job = Job.make({"model": {"source": "model.onnx"}, "data": {**same, "source": data}, **sections})
    return read_splits(job).certify, lambda outputs, labels: metric.outcomes(outputs[output], outputs[output], labels)


def predict(bundle: Path | str, inputs: Any) -> dict[str, np.ndarray]:
    """The outputs of a bundle by name, [N, ...]. inputs: as for `Bundle.predict`; open a Bundle to predict many times."""
    from .bundle.read import Bundle

    with Bundle.open(Path(bundle)) as opened:
        return opened.predict(inputs)


def predict_many(
    bundle: Path | str,
    source: Path | str,
    out: Path | str,
    *,
    form: Format = "npz",
    workers: str | None = None,
    tell: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Answer every row of a folder exactly once. After a stop or a kill the same call goes on.

    Args:
        bundle: its folder.
        source: a folder of pictures, .npz, .npy, .csv and .parquet files, or one such file. A table is read as a whole.
        out: the folder of the results: parts, and manifest.json when all is done.
        form: of the parts: npz, or jsonl.
        workers: who answers: None for this process alone, `ray` for one that is started here, or `ray://host:port` for a cluster. The
            results are the same, and each may go on with what another began.
        tell: told how far it is.

    Returns:
        The manifest: {"bundle", "inputs", "format", "rows", "failed" (rows with an error instead of an answer), "parts" [...]}. With
        `workers` also "nodes": how many answered in this call.

    Raises:
        HastenError: BundleError, DataError, JobError where `out` holds something else, NotPossibleHere where another process is at it,
            or the cluster cannot be used; MissingExtra without the extra `ray`.
    """
    from .batch.run import run

    return run(Path(bundle), Path(source), Path(out), form=form, workers=workers, tell=tell or (lambda _: None))


def bench(
    subjects: Sequence[Path | str],
    *,
    data: Any = None,
    seconds: float = 10.0,
    threads: int | None = None,
    batch_size: int = 1,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Time bundles and ONNX files against each other: in turn, each in its own process.

    Args:
        subjects: bundle folders and .onnx paths; ratios are over the first.
        data: inputs as for `optimize`. Default: the golden inputs of the first bundle, else random numbers.
        seconds: about how long to time.
        threads: that each may use. Default: all cores.
        batch_size: samples in each call.
        observer: told how far it is.

    Returns:
        {"rows": [...] (what report.tables.bench_table takes), "sentences": [...] (load and noise, for people)}.

    Raises:
        HastenError: JobError, DataError, BundleError or WorkerError.
    """
    from . import compare
    from .search.observer import Observer

    return compare.bench(subjects, data=data, seconds=seconds, threads=threads, batch_size=batch_size, observer=observer or Observer())


def profile_model(
    source: Any,
    *,
    data: Any = None,
    threads: int | None = None,
    out: Path | str | None = None,
    store: Store | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Where the time and the memory of a model go on each runtime that takes it, how it scales, and what bounds it.

    Args:
        source: a Job or the path of a job file, of an ONNX file, or of a bundle folder (which has its own runtime).
        data: inputs as for `bench`. Default: the job's, the bundle's golden inputs, else random numbers.
        threads: that may be used. Default: what the job or the bundle says, else all cores.
        out: the folder that profile.json, profile.html and trace.json are written to. Default: none is written.
        store: where what the machine can do is kept. Default: HASTEN_STORE, else the user's cache.
        observer: told how far it is.

    Returns:
        {"name", "sentence" (what bounds the fastest runtime), "threads", "batch_size", "machine", "ceilings", "runtimes" [{"name",
        "sentence", "latency", "percentiles_seconds", "operators", "memory", "threads", "batches"}, ...] the fastest first,
        "problems" (by runtime, why it has no profile), "sentences" (load and method), "files" (by name, what was written)}.

    Raises:
        HastenError: JobError, DataError, ModelError, BundleError, NotPossibleHere or MissingExtra.
    """
    from .core.store import Store
    from .profiling.profile import profile
    from .search.observer import Observer

    folder = None if out is None else _folder(Path(out))
    observer = observer or Observer()
    document = profile(source, data=data, threads=threads, store=store or Store.default(), observer=observer)
    return {**document, "files": {} if folder is None else _write_profile(document, folder, observer)}


def _write_profile(document: dict[str, Any], folder: Path, observer: Observer) -> dict[str, str]:
    """The files of a profile, by what they are. The page is left out where the packages for it are missing."""
    from .report.profile_html import render_profile
    from .report.trace import chrome_trace

    texts = {"profile.json": json.dumps(document, default=str), "trace.json": json.dumps(chrome_trace(document))}
    try:
        texts["profile.html"] = render_profile(document)
    except MissingExtra as error:
        observer.warn(str(error))
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf8")
    return {Path(name).stem if name != "profile.html" else "page": str(folder / name) for name in sorted(texts)}


def _folder(path: Path) -> Path:
    """`path` as a folder that can be written, before any work is done. Raises NotPossibleHere."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise NotPossibleHere("out", f"cannot be written ({error.strerror})", got=str(path), hint="Name another place") from None


def write_report(bundle: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a bundle as one self-contained HTML file; returns its path. Default: report.html inside the bundle.

    Raises BundleError, MissingExtra without the extra `report`, NotPossibleHere where `out` cannot be written.
    """
    from .bundle.layout import REPORT
    from .bundle.read import Bundle
    from .bundle.write import add_file
    from .report.html import render

    opened = Bundle.open(Path(bundle))
    text = render(opened.manifest.model_dump(mode="json"), opened.evidence)
    if out is None:
        return add_file(opened.path, REPORT, text)
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
    except OSError as error:
        raise NotPossibleHere("out", f"cannot be written ({error.strerror})", got=str(path), hint="Name another place") from None
    return path


def serve_bundle(*bundles: Path | str, options: ServeOptions | None = None, announce: Callable[[str], None] | None = None) -> None:
    """Answer HTTP requests with bundles until the process is told to stop.

    Args:
        bundles: folders, or NAME=FOLDER; several of one name are its versions 1, 2, ... in this order.
        options: how, as `hasten.ServeOptions(port=0, slo="50ms")`. Default: on port 8000 of this machine alone, with no objective.
        announce: called with each address (http://..., grpc://...) once connections are taken.

    Raises:
        HastenError: JobError, BundleError, NotPossibleHere (an objective that one sample alone does not keep, too), MissingExtra.
    """
    from .serve.run import serve

    serve(*bundles, options=options or ServeOptions(), announce=announce)


def deploy_bundle(
    bundle: Path | str,
    to: str,
    *,
    out: Path | str,
    slo: str | None = None,
    image: str | None = None,
    replicas: str = "2-8",
    startup: str | float | None = None,
    memory: str | float | None = None,
) -> dict[str, Any]:
    """Write what other machines need to serve a bundle. Nothing is built or sent.

    Args:
        bundle: its folder.
        to: docker, compose, kubernetes, kserve, ray-serve, or the name of a plug-in's platform.
        out: the folder that the files go to.
        slo: the server's objective, as of `ServeOptions`.
        image: what the image is called. Default: the model's name and the bundle's digest.
        replicas: how many servers, `N` or `LOW-HIGH`.
        startup: how long a start takes, seconds or a text such as "5s"; memory: of one server, bytes or a text such as "1GiB".
            Default: measured, by starting the server here three times.

    Returns:
        {"platform", "folder", "image", "files" (relative), "steps" (commands), "reasons" (sentences), "threads", "memory_bytes",
        "startup_seconds", "requirements"}.

    Raises:
        HastenError: JobError, BundleError, NotPossibleHere where the bundle does not serve here, MissingExtra.
    """
    from .bundle.read import Bundle
    from .core.registry import get
    from .core.seams import Platform
    from .core.units import parse_duration, parse_size
    from .deploy.write import write
    from .serve.service import Limits

    opened, platform, folder = Bundle.open(Path(bundle)), get(Platform, to, field="--to")(), Path(out)
    if slo is not None:
        parse_duration(slo, field="--slo")
    needs, files = write(
        platform,
        opened,
        folder,
        image=image,
        slo=slo,
        replicas=_replicas(replicas),
        startup_seconds=None if startup is None else parse_duration(startup, field="--startup"),
        memory_bytes=None if memory is None else int(parse_size(memory, field="--memory")),
        held_bytes=Limits().held_bytes,
    )
    return {
        "platform": platform.name,
        "folder": str(folder),
        "image": needs.image,
        "files": [path.relative_to(folder).as_posix() for path in files],
        "steps": list(platform.steps(needs)),
        "reasons": list(needs.reasons.values()),
        "threads": needs.threads,
        "memory_bytes": needs.memory_bytes,
        "startup_seconds": needs.startup_seconds,
        "requirements": list(needs.requirements),
    }


def _replicas(text: str) -> tuple[int, int]:
    """The least and the most. Raises JobError."""
    low, _, high = text.partition("-")
    numbers = [int(part) if part.isdigit() else 0 for part in (low, high or low)]
    if not 1 <= numbers[0] <= numbers[1]:
        raise JobError("--replicas", "must be a number from 1, or two of them as LOW-HIGH", got=text)
    return numbers[0], numbers[1]
