"""The places where hasten is extended. A plug-in is one file with one frozen dataclass that fills one of these.

A name is the edge's affair: `name` is what the command line and the job file say. Inside, a type is a type.
"""

from __future__ import annotations

import difflib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from .candidate import Candidate, Floor, Step
from .errors import JobError
from .machine import Machine, versions
from .widths import Site

if TYPE_CHECKING:
    from .job import Augment, DataSection, Job
    from .samples import Samples

Arrays = Mapping[str, np.ndarray]
"""Named arrays; the first axis is the batch."""


def option(
    default: Any, help: str, *, choices: tuple[Any, ...] = (), allowed: tuple[Any, ...] = (), unit: str = "", low: float | None = None,
    high: float | None = None,
) -> Any:  # fmt: skip
    """A field of a Technique or Runtime. Its values are checked when the dataclass is made.

    default: its value, whose type (truth value, whole number, number, text) every value has; help: what it means, with its
    source; choices: the values that a search may try (empty: it is not searched); allowed: the only values that it may have
    (empty: any, but for text with choices, which may be one of these alone); low, high: the range of a number; unit: for people.
    """
    if isinstance(default, str):
        allowed = allowed or choices
    return field(default=default, metadata={"help": help, "choices": choices, "allowed": allowed, "unit": unit, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the answer will run on. threads: at most so many; batch_size: samples per call that latency is measured at."""

    threads: int
    batch_size: int = 1
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is known before anything is tried: the machine, what it answered when asked, the target and the aim.

    facts: answers of the doctor's checks (`u8s8-saturates`); operators: how many of each operator the graph holds,
    known once the graph exists; objective: latency, throughput, size, memory or energy; num_train: samples that may be trained
    on, 0 where there are none or no time was given for it; epoch_seconds: of one pass over them for a student as large as the original;
    teacher_seconds: of asking the teacher about all of them; asks_anew: whether it is asked in every epoch, else in the first;
    answered_epochs: whose answers it has given already, and which are kept; train_seconds: that all training together may take.
    """

    machine: Machine
    target: Target
    facts: frozenset[str] = frozenset()
    operators: Mapping[str, int] = field(default_factory=dict)
    objective: str = "latency"
    num_calibration: int = 0
    num_train: int = 0
    epoch_seconds: float = 0.0
    teacher_seconds: float = 0.0
    asks_anew: bool = False
    answered_epochs: int = 0
    train_seconds: float = 0.0

    def training_seconds(self, epochs: float, share: float = 1.0) -> float:
        """What it takes to train for so many epochs with a teacher beside, and to export. share: of the original's time that a step of
        the student takes."""
        asked = max(0.0, (epochs if self.asks_anew else min(1.0, epochs)) - self.answered_epochs)
        return 30.0 + epochs * share * self.epoch_seconds + asked * self.teacher_seconds


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a technique promises before it is tried.

    speedup: over the same runtime's float32 program (1 = none), for where nothing can be measured; seconds: to build; int8_operators: kinds
    of operators (ONNX names) that it computes in 8 bits, whose gain here is measured; smaller: how many times fewer bytes ship; risk: how
    much it takes away, 0..1, to be compared among variants of one technique: what is right at one is right at less.
    """

    speedup: float
    seconds: float
    int8_operators: frozenset[str] = frozenset()
    smaller: float = 1.0
    risk: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a technique that trains may use.

    inputs: .npy files [N, ...] by input name of the train split, preprocessed; labels: .npy [N], None without; original: the model
    as it came, on the module floor; output: the place of the judged output among the outputs; classifier: whether it is scores of classes;
    checkpoint: a file that outlives a kill; teacher: whose answers are learnt, as Workload says, None: the original's; augment, batch_size:
    as the job says; answers: a folder where the teacher's answers are kept for all that train with the same seed; bfloat16: whether
    products in bfloat16 make it faster here; widths: a file with what layers of every width take here, in the runtime that counts
    (WidthTable as JSON).
    """

    inputs: Mapping[str, Path]
    labels: Path | None
    original: Candidate
    output: int
    classifier: bool
    checkpoint: Path
    teacher: Candidate | str | None = None
    augment: Augment = "none"
    batch_size: int = 128
    answers: Path | None = None
    bfloat16: bool = False
    widths: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a technique may use while it works. folder: where it writes; calibration: .npy files [N, ...] by input name
    of the calibrate split, preprocessed; threads, seed: for its own computing; training: for techniques that train."""

    folder: Path
    calibration: Mapping[str, Path]
    threads: int = 1
    seed: int = 0
    training: Training | None = None

    def calibration_arrays(self) -> dict[str, np.ndarray]:
        """The calibrate split by input name, memory-mapped, [N, ...]."""
        return {name: np.load(path, mmap_mode="r") for name, path in self.calibration.items()}


class _Options:
    """Shared by what has options: a frozen dataclass whose fields are made by `option`. name: what the command line calls it."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for known in fields(self):  # type: ignore[arg-type]
            if problem := _problem(known, getattr(self, known.name)):
                raise _wrong_option(self.name, known, getattr(self, known.name), problem)

    @classmethod
    def space(cls, profile: Profile) -> Iterator[Self]:
        """Every combination of the choices that a search may try, the defaults first. Override where facts narrow it."""
        searched = [f for f in fields(cls) if f.metadata.get("choices")]  # type: ignore[arg-type]
        axes = [sorted(f.metadata["choices"], key=lambda c, d=f.default: c != d) for f in searched]  # type: ignore[misc]
        for values in itertools.product(*axes):
            yield cls(**{f.name: v for f, v in zip(searched, values, strict=True)})

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults: what a recipe shows and a digest counts."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)  # type: ignore[arg-type]
            if f.default is MISSING or getattr(self, f.name) != f.default
        }


_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _problem(known: Field[Any], value: Any) -> str | None:
    """The rule of an option that `value` breaks, or None."""
    kind = type(known.default)
    low, high, allowed = (known.metadata.get(key) for key in ("low", "high", "allowed"))
    if kind in _TYPES and type(value) is not kind and not (kind is float and type(value) is int):
        return f"must be {_TYPES[kind]}"
    if allowed and value not in allowed:
        return f"must be one of {', '.join(map(str, allowed))}"
    if low is not None and not value >= low:  # NaN is neither
        return f"must be at least {low:g}"
    if high is not None and not value <= high:
        return f"must be at most {high:g}"
    return None


def _wrong_option(owner: str, known: Field[Any], value: Any, problem: str) -> JobError:
    near = difflib.get_close_matches(str(value), map(str, known.metadata.get("allowed") or ()), n=1)
    way = f"Did you mean {near[0]!r}?" if near else f"`hasten show {owner}` explains its options"
    return JobError(f"{owner}, option {known.name}", problem, got=value, hint=way)


class Technique(_Options, ABC):
    """One way to make a model smaller or faster. A frozen dataclass; its fields are its options.

    floor: where it works; needs, forbids: facts that the candidate must or must not have; adds: facts after it;
    lossless: outputs change by rounding only; trains: it needs the train split, and time of train.budget, and has an option `epochs`;
    rescues: facts of candidates that lose too much, and that it makes lose less where it comes before; heals: facts of trained models
    that lose too much, and that it makes lose less by what it does afterwards; prices: it asks what layers of every width take here
    (Training.widths); packages: distributions whose versions decide the result.
    """

    floor: ClassVar[Floor] = Floor.GRAPH
    lossless: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    rescues: ClassVar[frozenset[str]] = frozenset()
    heals: ClassVar[frozenset[str]] = frozenset()
    prices: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    forbids: ClassVar[frozenset[str]] = frozenset()
    adds: ClassVar[frozenset[str]] = frozenset()
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        """None, or one sentence saying why not. Cheap: nothing is imported. `candidate` is None when only planning;
        floor, needs and forbids have been checked already."""

    @abstractmethod
    def expects(self, profile: Profile) -> Forecast:
        """What it promises here."""

    def layers(self, original: Candidate) -> tuple[Site, ...]:
        """With `prices`: layers that it may build beside those of the original, each place with the largest widths that it may ask for."""
        return ()

    def skipping(self, nodes: tuple[str, ...]) -> Self | None:
        """The same technique, leaving the named nodes of the graph as they are: what mixed precision is made of. None where it cannot."""
        return None

    @abstractmethod
    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        """The candidate after it, its files in `context.folder`. Runs in a child process. Raises HastenError."""

    def step(self) -> Step:
        return Step(name=self.name, options=self.options(), versions=versions(*self.packages))


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """What one operator of a compiled program takes.

    name: as the runtime calls it; kind: its type, in ONNX words where there is one (`Conv`); seconds: of one call, the median
    over calls; nodes: names of the nodes of the candidate's graph that it computes (several where they were fused, none where
    the runtime made it up: a reorder of memory); start_seconds: when in a call it begins, counted from the call's first operator.
    """

    name: str
    kind: str
    seconds: float
    nodes: tuple[str, ...] = ()
    start_seconds: float = 0.0


class Program(ABC):
    """What runs: arrays in, arrays out, by name."""

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """One call. inputs: exactly the signature's, [N, ...]. Returns the outputs by name, [N, ...]."""

    def close(self) -> None:
        """Give back what it holds. The default has nothing to give."""


class Runtime(_Options, ABC):
    """Compiles a candidate for this machine and runs it. A frozen dataclass; its fields are its knobs.

    Every runtime has the knob `threads` (0: the target's). defines_right: what it computes is what the model means, for
    models on its floor; one runtime a floor says so.
    """

    floor: ClassVar[Floor] = Floor.GRAPH
    defines_right: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()
    threads: int

    @abstractmethod
    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        """None, or one sentence saying why not. Nothing is imported. `candidate` is None when only planning."""

    @abstractmethod
    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        """Write into `folder` all that `load` needs. Runs in a child process. Raises NotPossibleHere."""

    @abstractmethod
    def load(self, folder: Path, target: Target) -> Program:
        """The program in `folder`, ready to run. Raises NotPossibleHere, BundleError."""

    def operator_times(self, folder: Path, target: Target, inputs: Arrays, num_calls: int) -> tuple[OperatorTime, ...] | None:
        """Where the time of one call goes: each operator, in the order of execution. None where the runtime does not tell.

        folder: what `compile` wrote; inputs: of one call. Loads a program of its own, with the runtime's profiler on, which slows it:
        shares are what can be trusted. Runs in a child process. Raises NotPossibleHere, BundleError.
        """
        return None

    def step(self) -> Step:
        return Step(name=self.name, options=self.options(), versions=versions(*self.packages))

    def num_threads(self, target: Target) -> int:
        """The threads it will use: the knob, never more than the target allows."""
        return min(self.threads, target.threads) if self.threads else target.threads


class Loader(ABC):
    """Opens one kind of model. `packages`: as for Technique."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fits(self, job: Job) -> str | None:
        """None where `job.model` is of this kind, else one sentence saying why not. Nothing is imported."""

    @abstractmethod
    def open(self, job: Job, example: Arrays, folder: Path) -> Candidate:
        """The original as a candidate, its files in `folder`.

        example: a few real preprocessed samples [n >= 2, ...] by input name, or under the name `""` where the data
        have one input without a name. Raises ModelError, DataError, ExportError.
        """


class Reader(ABC):
    """Reads one kind of data source. hasten/workloads/__init__.py shows a whole one and says what it owes."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fits(self, source: str, path: Path) -> str | None:
        """None where `source` is of this kind, else one sentence saying why not. path: source, relative to the job file."""

    @abstractmethod
    def read(self, source: str, path: Path, data: DataSection) -> Mapping[str, Samples]:
        """`{"all": samples}`, or the splits by name. An input without a name is called `""`. Raises DataError."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check learnt: facts for the profile and one sentence for people."""

    sentence: str
    facts: frozenset[str] = frozenset()


class Check(ABC):
    """Asks the machine one question, by trying rather than by reading a list."""

    name: ClassVar[str]

    @abstractmethod
    def ask(self, target: Target) -> Finding:
        """The answer. Takes under a second; imports only what it needs; missing packages are a finding, not an error."""


@dataclass(frozen=True, kw_only=True)
class ServingNeeds:
    """What a bundle needs where it is served, and where each number comes from.

    name: a DNS label; model: what requests call it; digest: of the bundle, which names the image; image: the image's name and tag;
    python: `3.11`; arch: as Python names it (`x86_64`), empty where unknown; requirements: `package==version`, all of them;
    threads: that the program uses; memory_bytes: resident at its peak, with room for requests; startup_seconds: from nothing to
    ready; wait_seconds: in the queue, above which another replica is wanted; slo: the objective as `hasten serve --slo` takes it,
    or None; replicas: at least and at most so many; reasons: a sentence for each number that was not asked for, by field.
    """

    name: str
    model: str
    digest: str
    image: str
    python: str
    arch: str
    requirements: tuple[str, ...]
    threads: int
    memory_bytes: int
    startup_seconds: float
    wait_seconds: float
    slo: str | None
    replicas: tuple[int, int]
    reasons: Mapping[str, str]


class Platform(ABC):
    """Where a bundle is served beyond this machine. One file a platform, one class without fields."""

    name: ClassVar[str]

    @abstractmethod
    def render(self, needs: ServingNeeds) -> Mapping[str, str]:
        """The files that it wants: text by relative path. The bundle will lie beside them, in `bundle/`. Raises MissingExtra."""

    @abstractmethod
    def steps(self, needs: ServingNeeds) -> tuple[str, ...]:
        """The commands that bring it to life, run in the folder of the files."""
