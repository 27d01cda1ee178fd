"""Where candidates are built, compiled, run and measured: each step isolated in a child process and kept in the store."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.digest import digest_json, digest_path
from ..core.errors import DataError, DiskFull, HastenError
from ..core.job import TrainSection
from ..core.machine import versions
from ..core.measurement import Measurement
from ..core.preprocess import ImagePreprocess
from ..core.samples import Samples, SplitName
from ..core.seams import Context, OperatorTime, Runtime, Target, Technique, Training
from ..core.store import Record, Store
from ..core.trial import Trial
from ..core.widths import Site
from ..core.workload import Workload
from ..measure import energy, errands
from ..measure.ceilings import Ceilings
from ..measure.cores import SHARED
from ..measure.latency import Entrant, Plan, Race
from ..measure.sensitivity import Part
from ..measure.widths import measure_widths
from ..train import answers, batches
from ..train.pilot import Pace
from . import pilot
from .crew import Crew, Local
from .parcel import not_yet
from .study import Study

_CHUNK = 256  # samples preprocessed at a time
_PROFILED_CALLS = 30  # per operator; their order of size matters, not their third digit


@dataclass(frozen=True, kw_only=True)
class Built:
    """A compiled program: its folder, and the bytes that it ships."""

    folder: Path
    size_bytes: int


class Workshop:
    """Does the work of a search. Every method is free when its step was done before.

    crew: who does it (default: this process's own children); energy: how joules are known on the machine that times.
    """

    def __init__(
        self, store: Store, study: Study, workload: Workload, target: Target, seed: int, crew: Crew | None = None, *,
        energy: energy.Source = energy.UNKNOWN, train: TrainSection | None = None,
    ) -> None:  # fmt: skip
        self.energy, self.train = energy, train or TrainSection()
        self.store, self.study, self.workload, self.target, self.seed = store, study, workload, target, seed
        self.crew = crew or Local(store)
        self.machine = self.crew.machine
        self.priced_on: Runtime | None = None  # in which techniques price layers, once that is known
        self._ahead: dict[str, tuple[Technique, Candidate]] = {}
        self.worked_seconds = 0.0  # what the steps of this search took, whenever they were done
        self._booked: set[str] = set()
        self._told: set[str] = set()

    def tensors(self, split: SplitName | Literal["train"]) -> dict[str, Path]:
        """A split, or the train split, as the model sees it: one .npy [N, ...] for each input."""
        signature, preprocess, splits = self.workload.original.signature, self.workload.preprocess, self.workload.splits
        samples = splits.train if split == "train" else splits[split]
        assert samples is not None, "nobody asks for the train split where there is none"
        identity = {
            "data": splits.train_digest if split == "train" else splits.digest,
            "split": split,
            "preprocess": preprocess.model_dump() if preprocess else None,
            "inputs": signature.to_json()["inputs"],
        }
        with self.study.spending("data"):
            record = self._step("tensors", identity, lambda folder: self._write_tensors(samples, folder))
        return {spec.name: record.folder / f"{number}.npy" for number, spec in enumerate(signature.inputs)}

    def training(self, key: str) -> Training:
        """What a technique that trains may use; its checkpoint is called after the step."""
        return replace(self._training(key), bfloat16=self.pace().bfloat16)

    def widths(self, runtime: Runtime, more: Sequence[Site] = ()) -> Path:
        """What layers of the original and `more` take at every width, in `runtime`: a file, a WidthTable as JSON. Raises HastenError."""

        def work(folder: Path) -> None:
            sites = self.crew.on_target(pilot.sites, self._training("widths"))
            table = self.crew.on_target(errands.widths, runtime, self.target, [*sites, *more])
            (folder / "widths.json").write_text(json.dumps(table))

        with self.study.spending("profile"):
            path = self._step("widths", self._widths_identity(runtime, more), work).folder / "widths.json"
        self._note_shared("the table of widths", json.loads(path.read_text())["where"]["slowdown"])
        return path

    def _widths_identity(self, runtime: Runtime, more: Sequence[Site]) -> dict[str, Any]:
        identity = {
            "candidate": self.workload.original.id, "runtime": [runtime.step().to_json(), _code(runtime)], "machine": self.machine.id,
            "target": self.target.__dict__, "code": digest_path(Path(inspect.getfile(measure_widths))),
        }  # fmt: skip
        return identity | ({"more": sorted(f"{site.key}: {site.num_in} to {site.num_out}" for site in more)} if more else {})

    def _training(self, key: str) -> Training:
        workload, samples = self.workload, self.workload.splits.train
        assert samples is not None
        place = [spec.name for spec in workload.original.signature.outputs].index(workload.output)
        shape = workload.original.signature.outputs[place].shape
        classifier = len(shape) == 2 and (shape[1] or 0) > 1 and (samples.labels is None or samples.labels.dtype.kind in "iub")
        return Training(
            inputs=self.tensors("train"), labels=self._train_labels(samples), original=workload.original, output=place,
            classifier=classifier, teacher=workload.teacher, checkpoint=self.store.root / "checkpoints" / f"{key}.pt",
            augment=self.train.augment, batch_size=self.train.batch_size, answers=self.store.root / "answers" / self._answers_key(),
        )  # fmt: skip

    def _answers_key(self) -> str:
        """Names all that decides which batches the teacher is asked, and what it answers."""
        code = [digest_path(Path(inspect.getfile(module))) for module in (batches, answers)]
        return digest_json([self.workload.teacher_id, self.workload.splits.train_digest, self.train.augment, self.train.batch_size, code])

    def pace(self) -> Pace:
        """How long training takes here: timed over a few steps. Raises HastenError."""
        with self.study.spending("profile"):
            identity = {"candidate": self.workload.original.id, "train": self.workload.splits.train_digest, "threads": self.target.threads,
                        "batch": self.train.batch_size, "teacher": self.workload.teacher_id, "augment": self.train.augment,
                        "machine": self.machine.id, "code": digest_path(Path(inspect.getfile(Pace)))}  # fmt: skip
            training = self._training("pilot")

            def work(folder: Path) -> dict[str, Any]:
                return self.crew.on_target(pilot.pace, training, self.target.threads)

            value = self._step("pace", identity, work).value
        self._note_shared("the pace of training", value["slowdown"])
        return Pace(**value["pace"])

    def _note_shared(self, what: str, slowdown: float) -> None:
        """Tell of what was timed while cores were shared, whenever that was: plans that stand on it may be wrong."""
        if slowdown > SHARED and what not in self._told:
            self._told.add(what)
            self.study.learn(f"{what} was timed while this machine's cores were shared (work in parallel took {slowdown:.1f} times as "
                             "long as alone): give another --store on a quiet machine to time it again.")  # fmt: skip

    def apply(self, technique: Technique, candidate: Candidate) -> Candidate:
        """The candidate after a technique. Raises HastenError."""
        identity = self._candidate_identity(technique, candidate)
        key = self.store.key("candidate", identity)

        def work(folder: Path) -> dict[str, Any]:
            return self.crew.build(key, errands.build, self._build_seconds, technique, candidate, self._context(technique, folder, key))

        with self.study.spending("train" if technique.trains else "export" if technique.floor == "module" else "build"):
            record = self._step("candidate", identity, work)
        return Candidate.from_json(record.value, record.folder / record.value["path"])

    def prefetch(self, pairs: Sequence[tuple[Technique, Candidate]]) -> None:
        """What `apply` will probably be asked for next: built meanwhile where there are other machines to build it on."""
        if not self.crew.builds_ahead:
            return
        for key in self.crew.arrived():  # into the store, so that nothing that is finished can be lost
            if pair := self._ahead.pop(key, None):
                with contextlib.suppress(HastenError):  # the store has its failure
                    self.apply(*pair)
        for technique, candidate in pairs:
            key = self.store.key("candidate", self._candidate_identity(technique, candidate))
            if not self.store.has(key):
                self._ahead[key] = (technique, candidate)
                context = self._context(technique, not_yet(self.store), key)
                self.crew.ahead(key, errands.build, self._build_seconds, technique, candidate, context)

    def count(self, candidate: Candidate) -> dict[str, Any]:
        """Operations of one call, parameters and operators of a graph: `flops`, `parameters`, `operators`, `problem`."""
        identity = {"candidate": candidate.id, "batch": self.target.batch_size}
        key = self.store.key("count", identity)

        def work(folder: Path) -> dict[str, Any]:
            return self.crew.build(key, errands.count, candidate.path, self.target.batch_size)

        with self.study.spending("count"):
            value: dict[str, Any] = self._step("count", identity, work).value
        return value

    def compile(self, runtime: Runtime, candidate: Candidate) -> Built:
        """The candidate as a program. Raises HastenError."""
        identity = {"program": self._program_id(runtime, candidate), "machine": self.machine.id}
        with self.study.spending("compile"):
            record = self._step("program", identity, lambda folder: self._compile(runtime, candidate, folder))
        return Built(folder=record.folder / "program", size_bytes=record.value["size_bytes"])

    def race(self, trials: Sequence[Trial], plan: Plan, *, batch_size: int | None = None, twin_of: Trial | None = None, label: str) -> Race:
        """Trials timed against each other; latencies are keyed by trial id, the twin's by `twin`. Raises WorkerError."""
        batch = batch_size or self.target.batch_size
        taking_part = [(t.id, t) for t in trials] + ([("twin", twin_of)] if twin_of else [])
        entrants = [self._entrant(t, key, batch) for key, t in taking_part]
        identity = {
            "programs": [[key, self._program_id(t.runtime, t.candidate)] for key, t in taking_part],
            "plan": plan.__dict__, "batch": batch, "machine": self.machine.id, "data": self.workload.splits.digest, "label": label,
            **({"meter": self.energy.how} if self.energy.meter else {}),
        }  # fmt: skip

        def work(folder: Path) -> dict[str, Any]:
            return self.crew.on_target(errands.race, entrants, plan, self.energy.meter)

        with self.study.spending("timing"):
            result = Race.from_json(self._step("race", identity, work).value)
        self.study.busiest = max(self.study.busiest, result.others_busy or 0.0)
        self.study.slowdown = max(self.study.slowdown, result.slowdown)
        if self.energy.label == "estimated":  # from what was timed, so that other watts need no other race
            result = replace(result, energy={key: energy.estimated(m, self.energy) for key, m in result.latency.items()})
        return result

    def race_survivors(
        self, trials: Sequence[Trial], plan: Plan, *, needed: Collection[str], batch_size: int | None = None,
        twin_of: Trial | None = None, label: str,
    ) -> tuple[Race, dict[str, str]]:  # fmt: skip
        """`race` without the trials that crash in it, and why they did, by id. Raises what a trial in `needed` raises."""
        failed: dict[str, str] = {}
        while True:
            running = [t for t in trials if t.id not in failed]
            try:
                return self.race(running, plan, batch_size=batch_size, twin_of=twin_of, label=label), failed
            except HastenError as error:  # the name of a worker in a race ends with its trial's id
                guilty = next((t.id for t in running if t.id in str(error) and t.id not in needed), None)
                if guilty is None:
                    raise
                failed[guilty] = str(error)

    def parts(self, candidate: Candidate, *, reduce_range: bool) -> list[Part]:
        """What 8-bit numbers do to the outputs of a graph, part by part. Raises NotPossibleHere where it has no parts."""
        identity = {"candidate": candidate.id, "calibration": self.workload.splits.digest, "reduce_range": reduce_range,
                    "versions": versions("onnxruntime")}  # fmt: skip

        def work(folder: Path) -> list[dict[str, Any]]:
            tensors, batch = self.tensors("calibrate"), candidate.signature.batch or 1
            return self.crew.on_target(errands.parts, candidate.path, tensors, self.target.threads, batch=batch, reduce_range=reduce_range)

        with self.study.spending("build"):
            return [Part.from_json(value) for value in self._step("parts", identity, work).value]

    def layer_kinds(self, graph: Candidate) -> dict[str, str]:
        """Node name -> kind of layer, as `ceilings` names kinds."""
        identity = {"candidate": graph.id}
        key = self.store.key("layers", identity)

        def work(folder: Path) -> dict[str, str]:
            return self.crew.build(key, errands.layers, graph.path)

        with self.study.spending("profile"):
            kinds: dict[str, str] = self._step("layers", identity, work).value
        return kinds

    def memory(self, trial: Trial) -> Measurement:
        """Peak memory of a process that only loads and runs the program, less the same process before it."""
        built = self.compile(trial.runtime, trial.candidate)
        tensors = self.tensors("select")
        identity = {
            "program": self._program_id(trial.runtime, trial.candidate),
            "machine": self.machine.id,
            "batch": self.target.batch_size,
        }

        def work(folder: Path) -> dict[str, Any]:
            return self.crew.on_target(errands.memory, trial.runtime, built.folder, self.target, tensors, self.target.batch_size)

        with self.study.spending("memory"):
            peak = self._step("peak-memory", identity, work).value
        return Measurement(
            metric="peak_memory", unit="B", samples=(float(max(0, peak["after"] - peak["before"])),),
            method={"how": "peak resident bytes of a fresh process after 10 calls, less its peak before it loaded the program",
                    "before": peak["before"], "after": peak["after"]},
            where=peak["where"],
        )  # fmt: skip

    def operator_times(self, trial: Trial) -> tuple[OperatorTime, ...] | None:
        """Where the time of one call at the target's batch size goes; None where the runtime does not tell. Raises HastenError."""
        built = self.compile(trial.runtime, trial.candidate)
        tensors = self.tensors("select")
        identity = {
            "program": self._program_id(trial.runtime, trial.candidate), "machine": self.machine.id,
            "batch": self.target.batch_size, "calls": _PROFILED_CALLS,
        }  # fmt: skip

        def work(folder: Path) -> Any:
            return self.crew.on_target(errands.operator_times, trial.runtime, built.folder, self.target, tensors, _PROFILED_CALLS)

        with self.study.spending("profile"):
            rows = self._step("operators", identity, work).value
        return None if rows is None else tuple(OperatorTime(**{**row, "nodes": tuple(row["nodes"])}) for row in rows)

    def ceilings(self, runtimes: Sequence[Runtime]) -> Ceilings:
        """What this machine can do at most with the target's threads, and what int8 is worth in each of `runtimes`."""
        with self.study.spending("profile"):
            return kept_ceilings(self.crew, runtimes, self.target, step=self._step)

    def evaluator(self, trial: Trial, split: SplitName, batch_size: int) -> Evaluator:
        """Runs the trial's program over a split, piece by piece, `batch_size` samples a call (a fixed batch wins)."""
        return Evaluator(self, trial, split, batch_size)

    def _step(self, kind: str, identity: Mapping[str, Any], work: Callable[[Path], Any]) -> Record:
        """A step of the store; what it took is booked, also where it was done before."""
        record = self.store.step(kind, identity, work)
        if record.key not in self._booked:
            self._booked.add(record.key)
            self.worked_seconds += record.seconds
            self.study.credit(0.0 if record.fresh else max(0.0, record.seconds - record.waited_seconds))
        return record

    def _candidate_identity(self, technique: Technique, candidate: Candidate) -> dict[str, Any]:
        identity = {"candidate": candidate.id, "step": technique.step().to_json(), "code": _code(technique), "seed": self.seed}
        if not technique.lossless:  # only these may look at data
            identity["calibration"] = self.workload.splits.digest
        if technique.trains:
            settings = [self.train.augment, self.train.batch_size, self.pace().bfloat16]
            identity["train"] = [self.workload.splits.train_digest, *settings, training_code()]
            if self.workload.teacher is not None:
                identity["teacher"] = self.workload.teacher_id
        if technique.prices and self.priced_on is not None:
            identity["widths"] = self._widths_identity(self.priced_on, technique.layers(self.workload.original))
        return identity

    def _context(self, technique: Technique, folder: Path, key: str) -> Context:
        calibration = {} if technique.lossless else self.tensors("calibrate")
        training = self.training(key) if technique.trains else None
        if training is not None and technique.prices and self.priced_on is not None:
            training = self._priced(training, self.priced_on, technique.layers(self.workload.original))
        return Context(folder=folder, calibration=calibration, threads=self.target.threads, seed=self.seed, training=training)

    def _priced(self, training: Training, runtime: Runtime, more: Sequence[Site]) -> Training:
        """With what layers of every width take, where that can be measured."""
        try:
            return replace(training, widths=self.widths(runtime, more))
        except DiskFull:
            raise
        except HastenError as error:
            self.study.learn(f"multiply-adds are the price of layers, since widths could not be timed: {error}")
            return training

    @property
    def _build_seconds(self) -> float:
        return max(30.0, self.study.left, self.study.train_left)

    def _program_id(self, runtime: Runtime, candidate: Candidate) -> str:
        return digest_json([candidate.id, runtime.step().to_json(), _code(runtime), self.target.__dict__])

    def _compile(self, runtime: Runtime, candidate: Candidate, folder: Path) -> dict[str, Any]:
        seconds = max(60.0, self.study.left)
        return self.crew.on_target(errands.compile_program, seconds, runtime, candidate, self.target, folder / "program")

    def _entrant(self, trial: Trial, key: str, batch_size: int, split: SplitName = "select") -> Entrant:
        built = self.compile(trial.runtime, trial.candidate)
        return Entrant(
            key=key, runtime=trial.runtime, folder=built.folder, target=self.target, tensors=self.tensors(split), batch_size=batch_size
        )

    def _train_labels(self, samples: Samples) -> Path | None:
        if (labels := samples.labels) is None:
            return None

        def work(folder: Path) -> None:
            np.save(folder / "labels.npy", labels)

        return self._step("labels", {"data": self.workload.splits.train_digest}, work).folder / "labels.npy"

    def _write_tensors(self, samples: Samples, folder: Path) -> dict[str, Any]:
        preprocess, specs = self.workload.preprocess, self.workload.original.signature.inputs
        for number, spec in enumerate(specs):
            values = samples.inputs[""] if "" in samples.inputs and len(specs) == 1 else samples.inputs.get(spec.name)
            if values is None:
                raise DataError("data", f"must hold the model's input {spec.name!r}", got=", ".join(samples.inputs))
            with (folder / f"{number}.npy").open("wb") as file:  # not mapped: a full disk must be an error, not SIGBUS
                row: tuple[int, ...] | None = None
                for at in range(0, len(samples), _CHUNK):
                    raw = values[at : at + _CHUNK]
                    chunk = preprocessed(preprocess, raw, samples, at) if preprocess else np.asarray(raw)
                    if problem := spec.problem(chunk if spec.shape[:1] == (None,) else chunk[: spec.shape[0]]):
                        raise DataError(f"data input {spec.name!r}", problem)
                    if row is None:
                        row = chunk.shape[1:]
                        descr = np.lib.format.dtype_to_descr(np.dtype(spec.dtype))
                        header = {"descr": descr, "fortran_order": False, "shape": (len(samples), *row)}
                        np.lib.format.write_array_header_2_0(file, header)
                    if chunk.shape[1:] != row:
                        raise DataError(f"data input {spec.name!r}", f"must have one shape {row} for all samples", got=chunk.shape[1:])
                    file.write(np.ascontiguousarray(chunk, dtype=spec.dtype).tobytes())
        return {"samples": len(samples)}


class Evaluator:
    """Outputs of one program over one split, computed on demand and kept. Its child starts when it is first needed."""

    def __init__(self, workshop: Workshop, trial: Trial, split: SplitName, batch_size: int) -> None:
        self._shop, self._trial, self._split = workshop, trial, split
        self._child = f"{trial.id} {split}"
        self.seconds_per_sample = 0.0
        self.batch_size = trial.candidate.signature.batch or batch_size

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self._shop.crew.release(self._child)

    def outputs(self, start_at: int, stop: int) -> dict[str, np.ndarray]:
        """Outputs for samples `start_at` to `stop` of the split, by name."""
        shop, trial = self._shop, self._trial
        identity = {
            "program": shop._program_id(trial.runtime, trial.candidate), "data": shop.workload.splits.digest, "split": self._split,
            "range": [start_at, stop], "batch": self.batch_size, "machine": shop.machine.id,
            "preprocess": shop.workload.preprocess.model_dump() if shop.workload.preprocess else None,
        }  # fmt: skip
        with shop.study.spending("quality"):
            record = shop._step("outputs", identity, lambda folder: self._run(start_at, stop, folder))
        self.seconds_per_sample = record.value["seconds"] / (stop - start_at)
        names = (record.folder / "names.txt").read_text().split("\n")
        return {name: np.load(record.folder / f"{number}.npy") for number, name in enumerate(names)}

    def _run(self, start_at: int, stop: int, folder: Path) -> dict[str, float]:
        entrant = self._shop._entrant(self._trial, self._trial.id, 1, self._split)
        return {"seconds": self._shop.crew.on_target(errands.evaluate, self._child, entrant, start_at, stop, self.batch_size, folder)}


def preprocessed(preprocess: ImagePreprocess, pictures: Sequence[Any], samples: Samples, start_at: int) -> np.ndarray:
    """The tensors of `pictures`, which are the samples from `start_at` on. Raises DataError, naming the sample that is wrong."""
    try:
        return preprocess(pictures)
    except DataError:
        for number, picture in enumerate(pictures, start_at):
            try:
                preprocess.one(picture)
            except DataError as error:
                place = number if samples.places is None else samples.places[number]
                raise DataError(f"data, sample {place} (the first is 0)", str(error).rstrip(".")) from None
        raise


def kept_ceilings(crew: Crew, runtimes: Sequence[Runtime], target: Target, *, step: Callable[..., Record]) -> Ceilings:
    """What the machine that times can do at most, and what int8 is worth in those of `runtimes` that run graphs; measured once.

    step: does and keeps the work (`Store.step`).
    """
    fitting = [r for r in runtimes if r.floor is Floor.GRAPH and r.fits(None, target) is None]
    identity = {
        "runtimes": [[r.step().to_json(), _code(r)] for r in fitting], "machine": crew.machine.id, "threads": target.threads,
        "code": digest_path(Path(inspect.getfile(Ceilings))),
    }  # fmt: skip
    return Ceilings.from_json(step("ceilings", identity, lambda folder: crew.on_target(errands.ceilings, fitting, target)).value)


def keep_original(store: Store, candidate: Candidate) -> Candidate:
    """The original, its files moved into the store under the name of its content."""

    def work(folder: Path) -> dict[str, Any]:
        for file in candidate.path.parent.iterdir():
            (folder / file.name).hardlink_to(file)
        return {**candidate.to_json(), "path": candidate.path.name}

    record: Record = store.step("original", candidate.to_json(), work)
    return Candidate.from_json(record.value, record.folder / record.value["path"])


def _code(leaf: Technique | Runtime) -> str:
    """The name of the code that does the step: a changed leaf never meets results of its former self."""
    return digest_path(Path(inspect.getfile(type(leaf))))


def training_code(room: Path = Path(__file__).parents[1] / "train") -> str:
    """The name of the code that all training shares, as `_code` is that of one leaf."""
    return digest_json([[file.name, digest_path(file)] for file in sorted(room.glob("*.py"))])
