"""Opens what is profiled, a job, an ONNX file or a bundle, and compiles it for every runtime that takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..bundle.layout import PORTABLE, PROGRAM
from ..bundle.read import Bundle
from ..compare import Subject, given_inputs, write_tensors
from ..core.candidate import Candidate, Floor, Step
from ..core.errors import HastenError, JobError, MissingExtra, NotPossibleHere
from ..core.job import Job
from ..core.machine import usable_cores
from ..core.registry import find, get
from ..core.seams import Runtime, Target, Technique
from ..core.store import Store
from ..measure import tasks
from ..measure.naming import named_copy
from ..measure.worker import run
from ..search.observer import Observer
from ..search.opening import open_workload
from ..search.study import Study
from ..search.workshop import Workshop

_PREPARING = ("export-onnx", "simplify")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled program that is profiled. graph: the ONNX file that it was made from, for its costs; None where there is none."""

    subject: Subject
    tensors: Mapping[str, Path]
    graph: Path | None

    @property
    def name(self) -> str:
        return self.subject.runtime.step().text


@dataclass(frozen=True, kw_only=True)
class Opened:
    """name: of the model; problems: by runtime, why it takes no part."""

    name: str
    programs: list[Program]
    problems: dict[str, str]


def open_source(source: Path | str | Job, data: Any, threads: int | None, store: Store, observer: Observer, scratch: Path) -> Opened:
    """What `source` names, compiled in `scratch` for every runtime that takes it. Raises HastenError."""
    if isinstance(source, Job) or str(source).endswith(".toml"):
        if data is not None:
            raise JobError("--data", "must not be given with a job, which names its data", got=str(data))
        overrides = {} if threads is None else {"target.threads": threads}
        if isinstance(source, Job) and overrides:
            raise JobError("threads", "must not be given with a Job, which says everything", got=threads, hint="Put it into the job")
        job = source if isinstance(source, Job) else Job.read(Path(source), overrides)
        return _from_job(job, store, observer, scratch)
    path = Path(source)
    if path.is_dir():
        return _from_bundle(path, data, threads, scratch)
    if path.suffix != ".onnx":
        raise JobError("profile", "must be given a job file, an .onnx file or a bundle folder", got=str(path))
    if not path.is_file():
        raise JobError("profile", "must be given a file that exists", got=str(path))
    return _from_onnx(path.resolve(), data, threads, observer, scratch)


def _from_bundle(path: Path, data: Any, threads: int | None, scratch: Path) -> Opened:
    bundle = Bundle.open(path)
    bundle.check_program()
    target = replace(bundle.target, threads=min(threads or bundle.target.threads, usable_cores()))
    runtime = bundle.runtime
    if reason := runtime.fits(bundle.manifest.to_candidate(path), target):
        raise NotPossibleHere("bundle", f"cannot run here: {reason}")
    subject = Subject(name=bundle.name, runtime=runtime, folder=path / PROGRAM, target=target, signature=bundle.signature, bundle=bundle)
    tensors = write_tensors(subject, given_inputs([subject], data), target.batch_size, scratch)
    graph = path / PORTABLE
    return Opened(
        name=bundle.name, programs=[Program(subject=subject, tensors=tensors, graph=graph if graph.is_file() else None)], problems={}
    )


def _from_onnx(path: Path, data: Any, threads: int | None, observer: Observer, scratch: Path) -> Opened:
    signature = run("onnxruntime", tasks.onnx_signature, path)
    graph = run("names", named_copy, path, scratch)
    target = Target(threads=min(threads or usable_cores(), usable_cores()), batch_size=signature.batch or 1)
    candidate = Candidate(floor=Floor.GRAPH, path=graph, signature=signature, lineage=(Step(name="onnx"),))
    runtimes = [kind() for kind in find(Runtime).values() if kind.floor is Floor.GRAPH]
    subject = Subject(name=path.stem, runtime=runtimes[0], folder=path, target=target, signature=signature)
    tensors = write_tensors(subject, given_inputs([subject], data), target.batch_size, scratch)
    return _compiled(path.stem, dict.fromkeys(runtimes, candidate), target, tensors, observer, scratch)


def _from_job(job: Job, store: Store, observer: Observer, scratch: Path) -> Opened:
    names = job.target.runtimes
    kinds = list(find(Runtime).values()) if names is None else [get(Runtime, name, field="target.runtimes") for name in names]
    observer.stage("open", "read the data, load the model")
    workload = open_workload(job, store)
    batch = workload.original.signature.batch or job.target.batch_size
    target = Target(threads=min(job.target.threads or usable_cores(), usable_cores()), batch_size=batch)
    shop = Workshop(store, Study(job.search.budget, observer), workload, target, job.search.seed)
    original = graph = workload.original
    for technique in (get(Technique, name)() for name in _PREPARING):
        if technique.floor is graph.floor and not technique.forbids & graph.facts:
            graph = shop.apply(technique, graph)
    candidates = {original.floor: original, graph.floor: graph}
    chosen = {kind(): candidates[kind.floor] for kind in kinds if kind.floor in candidates}
    return _compiled(workload.name, chosen, target, shop.tensors("select"), observer, scratch)


def _compiled(
    name: str, candidates: Mapping[Runtime, Candidate], target: Target, tensors: Mapping[str, Path], observer: Observer, scratch: Path
) -> Opened:
    """The programs of all runtimes that take the model; why the others do not."""
    observer.stage("compile", "the model for every runtime that takes it")
    opened = Opened(name=name, programs=[], problems={})
    for runtime, candidate in candidates.items():
        if reason := runtime.fits(candidate, target):
            opened.problems[runtime.step().text] = reason
            continue
        folder = scratch / runtime.name
        folder.mkdir()
        with noting(opened.problems, runtime):
            run(runtime.name, tasks.compile_program, runtime, candidate, target, folder)
            subject = Subject(name=name, runtime=runtime, folder=folder, target=target, signature=candidate.signature)
            graph = candidate.path if candidate.floor is Floor.GRAPH else None
            opened.programs.append(Program(subject=subject, tensors=tensors, graph=graph))
    if not opened.programs:
        reasons = "; ".join(f"{runtime}: {reason}" for runtime, reason in opened.problems.items())
        raise NotPossibleHere("profile", f"must find a runtime that runs the model ({reasons})", hint="See `hasten list runtimes`")
    return opened


@contextmanager
def noting(problems: dict[str, str], runtime: Runtime) -> Iterator[None]:
    """What fails on one runtime is told of it, and does not end the profile of the others."""
    try:
        yield
    except MissingExtra:
        raise
    except HastenError as error:
        problems[runtime.step().text] = str(error)
