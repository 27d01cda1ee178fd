"""`hasten bench`: bundles and ONNX files timed against each other, in turn, each in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .bundle.layout import PROGRAM
from .bundle.read import Bundle
from .core.candidate import Candidate, Floor, Step
from .core.errors import DataError, JobError
from .core.job import Job
from .core.machine import this_machine, usable_cores
from .core.seams import Runtime, Target
from .core.signature import Signature
from .measure import tasks
from .measure.latency import Entrant, Plan, Race, race
from .measure.statistics import ratio_interval
from .measure.worker import run
from .search.building import right_runtime
from .search.observer import Observer
from .search.opening import read_splits

_BLOCKS = 3
_SLICE_SECONDS = 0.02
_BUSY = 0.15


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What takes part: a program with its inputs' signature. bundle: where it came from, if from one."""

    name: str
    runtime: Runtime
    folder: Path
    target: Target
    signature: Signature
    bundle: Bundle | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


def bench(
    paths: Sequence[Path | str], *, data: Any, seconds: float, threads: int | None, batch_size: int, observer: Observer
) -> dict[str, Any]:
    """Rows and sentences, as `api.bench` says. Raises HastenError."""
    target = Target(threads=min(threads or usable_cores(), usable_cores()), batch_size=batch_size)
    with tempfile.TemporaryDirectory(prefix="hasten-bench-") as scratch:
        root = Path(scratch)
        subjects = [_subject(Path(path), target, root / str(number)) for number, path in enumerate(paths)]
        given = given_inputs(subjects, data)
        entrants = []
        for number, subject in enumerate(subjects):
            tensors = write_tensors(subject, given, batch_size, root / str(number))
            entrants.append(
                Entrant(
                    key=str(number),
                    runtime=subject.runtime,
                    folder=subject.folder,
                    target=subject.target,
                    tensors=tensors,
                    batch_size=batch_size,
                )
            )
        entrants.append(replace(entrants[0], key="twin"))
        observer.stage("timing", f"{len(subjects)} programs and a twin of the first, in turn")
        rounds = max(5, round(seconds / (_BLOCKS * len(entrants) * _SLICE_SECONDS)))
        plan = Plan(blocks=_BLOCKS, rounds=rounds, slice_seconds=_SLICE_SECONDS, block_seconds=seconds / _BLOCKS)
        result = race(
            entrants, plan, where={"machine": this_machine().id}, progress=lambda fraction: observer.trying("timing", "", fraction)
        )  # fmt: skip
        return {
            "rows": [_row(s, result, str(n)) for n, s in enumerate(subjects)],
            "sentences": _sentences(result),
            "machine": this_machine().to_json(),
        }


def _subject(path: Path, target: Target, scratch: Path) -> Subject:
    scratch.mkdir()
    if path.is_dir():
        bundle = Bundle.open(path)
        bundle.check_program()
        return Subject(
            name=str(path), runtime=bundle.runtime, folder=path / PROGRAM, target=target, signature=bundle.signature, bundle=bundle
        )
    if not path.exists():
        raise JobError("bench", "must be given bundles and .onnx files that exist", got=str(path))
    if path.suffix != ".onnx":
        raise JobError("bench", "must be given bundle folders and .onnx files", got=str(path))
    signature = run("onnxruntime", tasks.onnx_signature, path.resolve())
    candidate = Candidate(floor=Floor.GRAPH, path=path.resolve(), signature=signature, lineage=(Step(name="onnx"),))
    runtime, program = right_runtime(Floor.GRAPH), scratch / "program"
    program.mkdir()
    run(runtime.name, tasks.compile_program, runtime, candidate, target, program)
    return Subject(name=str(path), runtime=runtime, folder=program, target=target, signature=signature)


def given_inputs(subjects: Sequence[Subject], data: Any) -> Mapping[str, np.ndarray]:
    """Real inputs: those of `data`, else the golden ones of the first bundle, else none."""
    bundle = next((s.bundle for s in subjects if s.bundle is not None), None)
    if data is None:
        return dict(bundle.golden.tensors) if bundle is not None else {}
    preprocess = bundle.manifest.preprocess if bundle is not None else None
    source = {"source": os.path.abspath(data) if Path(str(data)).exists() else str(data)}
    job = Job.make({"model": {"source": "model.onnx"}, "data": source if isinstance(data, str | Path) else {"content": data}})
    inputs = read_splits(job).select.inputs
    return {name: preprocess(values) if preprocess else np.asarray(values) for name, values in inputs.items()}


def write_tensors(subject: Subject, given: Mapping[str, np.ndarray], batch_size: int, folder: Path) -> dict[str, Path]:
    """Files of inputs for a subject: the given ones where they fit, else random numbers."""
    specs = subject.signature.inputs
    fixed = subject.signature.batch
    if fixed is not None and fixed != batch_size:
        raise JobError("--batch-size", f"must be {fixed}, the fixed batch of {subject.name}", got=batch_size)
    paths = {}
    for number, spec in enumerate(specs):
        array = given.get(spec.name, given.get("") if len(specs) == 1 else None)
        if array is None and len(specs) == len(given) == 1:
            array = next(iter(given.values()))
        if array is not None and (problem := replace(spec, shape=(None, *spec.shape[1:])).problem(array)):
            raise DataError(f"input {spec.name!r} of {subject.name}", problem)
        if array is None:
            shape = tuple(n if n is not None else (batch_size if axis == 0 else 16) for axis, n in enumerate(spec.shape))
            array = np.random.default_rng(0).random(shape)
        paths[spec.name] = folder / f"input{number}.npy"
        np.save(paths[spec.name], np.asarray(array, dtype=spec.dtype))
    return paths


def _row(subject: Subject, result: Race, key: str) -> dict[str, Any]:
    latency = result.latency[key]
    first = result.latency["0"]
    speedup = None
    if key != "0":
        blocks = np.asarray(result.block_of_round)
        speedup = ratio_interval(first.round_medians(), latency.round_medians(), blocks=blocks).to_json()
    percentiles = {f"p{q}": latency.percentile(q) for q in (50, 95, 99)}
    return {
        "name": subject.name, "runtime": subject.runtime.step().text, "latency": latency.interval().to_json(), "speedup": speedup,
        "size_bytes": subject.size_bytes, "percentiles_seconds": percentiles, "num_runs": len(latency.samples),
    }  # fmt: skip


def _sentences(result: Race) -> list[str]:
    blocks = np.asarray(result.block_of_round)
    noise = ratio_interval(result.latency["0"].round_medians(), result.latency["twin"].round_medians(), blocks=blocks)
    told = [f"Noise: the first against itself gives {noise.value:.3f} ({noise.low:.3f} to {noise.high:.3f}); differences inside are none."]
    if result.others_busy is not None and result.others_busy > _BUSY:
        told.append(f"Other processes took {100 * result.others_busy:.0f} % of the machine: ratios hold, absolute times are too high.")
    return told
