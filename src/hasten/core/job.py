"""What is asked, as the user writes it: a TOML file, or the same thing built in Python.

Every key carries its description; `hasten show job` prints them. Wrong keys are answered with the nearest right one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from .digest import digest_json
from .errors import JobError
from .preprocess import ImagePreprocess
from .units import parse_duration

Objective = Literal["latency", "throughput", "size", "memory", "energy"]

Augment = Literal["none", "flip", "crop", "flip-crop"]
"""What is done to pictures [C, H, W] in training: nothing, mirrored at random, shifted at random, or both."""


def _seconds(value: Any, info: ValidationInfo) -> float:
    section = str((info.config or {}).get("title", "")).removesuffix("Section").lower()
    return parse_duration(value, field=f"{section}.{info.field_name}")


Seconds = Annotated[float, BeforeValidator(_seconds)]


def check_workers(value: str | None) -> str | None:
    """`ray`, `ray://host:port`, or None. Raises ValueError with the rule."""
    if value is not None and not re.fullmatch(r"ray(://[^/]+:\d+)?", value):
        raise ValueError("must be ray or ray://host:port")
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelSection(_Section):
    """The model. In Python, `module` may hold an nn.Module instead of `source`."""

    source: Annotated[
        str | None,
        Field(description="An ONNX file, or a callable that returns an nn.Module: `file.py:function` or `package.module:function`."),
    ] = None
    weights: Annotated[str | None, Field(description="A .safetensors file that is loaded into the module (strictly).")] = None
    module: Annotated[Any, Field(exclude=True, repr=False)] = None  # Python only


class DataSection(_Section):
    """The data: one set in `source` (divided 10/30/60 by content, stratified, seeded), or the three splits by name."""

    source: Annotated[
        str | None,
        Field(description="A callable, or a path: .npz, .parquet, .csv, or a folder of class folders. One set: it is divided 10/30/60."),
    ] = None
    calibrate: Annotated[str | None, Field(description="The split that techniques may look at (like source).")] = None
    select: Annotated[str | None, Field(description="The split that the search may look at (like source).")] = None
    certify: Annotated[str | None, Field(description="The split that is looked at once, for the final answer (like source).")] = None
    train: Annotated[
        str | None, Field(description="What may be trained on (like source), beside the others: it must share no sample with them.")
    ] = None
    label: Annotated[str | None, Field(description="Column or array that holds the label. Default: label, labels, target or y.")] = None
    image: Annotated[str | None, Field(description="Parquet column that holds encoded pictures. Default: image.")] = None
    limit: Annotated[int | None, Field(gt=0, description="Use at most so many samples of each source, the first ones.")] = None
    labels: Annotated[Names | None, Field(description="Class names, in the order of the model's outputs.")] = None
    preprocess: Annotated[
        ImagePreprocess | None, Field(strict=False, description="What happens to pictures before the model: see the keys below.")
    ] = None
    transform: Annotated[
        str | None,
        Field(
            description="Your own function from a PIL picture to an array, as `file.py:function`. It is only compared with "
            "preprocess, on real pictures: they must agree to 0.001."
        ),
    ] = None
    content: Annotated[Any, Field(exclude=True, repr=False)] = None  # Python only: arrays, Samples or a mapping of splits


class QualitySection(_Section):
    """What good means."""

    metric: Annotated[
        str | None,
        Field(description="`hasten list metrics`. Default: accuracy with class labels; without labels agreement (classifiers) or cosine."),
    ] = None
    output: Annotated[str | None, Field(description="The output that is judged. Default: the first one.")] = None


class LimitsSection(_Section):
    """What must hold."""

    max_drop: Annotated[
        float,
        Field(ge=0, le=100, allow_inf_nan=False, strict=False, description="Points of quality that may be lost against the original."),
    ] = 0.5
    latency_ms: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, strict=False, description="95th percentile of latency (its 95 % upper bound), milliseconds."),
    ] = None
    size_mb: Annotated[float | None, Field(gt=0, allow_inf_nan=False, strict=False, description="Bytes that ship, in millions.")] = None
    memory_mb: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, strict=False, description="Peak memory over an empty process, in millions of bytes.")
    ] = None
    energy_mj: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, strict=False, description="Energy of a call, millijoules: the upper 95 % bound.")
    ] = None


class TargetSection(_Section):
    """Where the answer will run: this machine, or a node of a cluster, used like this."""

    threads: Annotated[int | None, Field(gt=0, description="Threads that may be used. Default: all cores.")] = None
    batch_size: Annotated[int, Field(gt=0, description="Samples per call at which latency is measured.")] = 1
    runtimes: Annotated[
        Names | None, Field(description="Runtimes that may be used (`hasten list runtimes`). Default: all that are installed.")
    ] = None
    label: Annotated[
        str | None,
        Field(
            min_length=1, description="With search.workers: programs are timed only on nodes that carry this Ray resource. Default: any."
        ),
    ] = None
    watts_per_core: Annotated[
        float | None,
        Field(
            gt=0, allow_inf_nan=False, strict=False,
            description="Watts that one busy core draws, for an estimate of energy where the machine's own counters cannot be read.",
        ),
    ] = None  # fmt: skip


class SearchSection(_Section):
    """How to look for it."""

    objective: Annotated[Objective, Field(description=f"What to minimise: {', '.join(get_args(Objective))}.")] = "latency"
    budget: Annotated[Seconds, Field(strict=False, description="Time for the search, such as 90s, 5m or 1h30m.")] = 300.0
    techniques: Annotated[Names | None, Field(description="Techniques that may be used (`hasten list techniques`). Default: all.")] = None
    workers: Annotated[
        str | None,
        AfterValidator(check_workers),
        Field(description="Who works: `ray` starts one on this machine, `ray://host:port` is a cluster. Default: this process alone."),
    ] = None
    seed: Annotated[int, Field(ge=0, description="Seed of the division of the data and of all sampling.")] = 0
    allow_undecided: Annotated[bool, Field(description="Whether an answer may be one whose quality too few samples could decide.")] = False


class TrainSection(_Section):
    """Techniques that train: pruning, distillation and the like. They need data.train and a budget."""

    budget: Annotated[
        Seconds,
        Field(
            ge=0,
            strict=False,
            description="Time for training, such as 30m or 2h, beside search.budget. Default: none, and nothing is trained.",
        ),
    ] = 0.0
    teacher: Annotated[
        str | None,
        Field(
            description="Whose answers are learnt: file.py:function of a torch.nn.Module, or http(s)://host:port/MODEL of a server of the "
            "Open Inference Protocol. Default: those of the model that is made fast."
        ),
    ] = None
    batch_size: Annotated[int, Field(gt=0, description="Samples a step.")] = 128
    augment: Annotated[
        Augment, Field(description="What is done to pictures in training, at random: none, flip (mirrored), crop (shifted) or flip-crop.")
    ] = "none"


class TrackingSection(_Section):
    """Where the finished search is written down, candidate by candidate, with MLflow."""

    uri: Annotated[
        str | None,
        Field(description="A folder, sqlite:///FILE, or the http(s) address of an MLflow server. Default: nothing is written down."),
    ] = None
    experiment: Annotated[str, Field(min_length=1, description="The experiment of MLflow that the runs belong to.")] = "hasten"


class Job(_Section):
    """What was asked."""

    model: ModelSection
    data: DataSection
    quality: QualitySection = QualitySection()
    limits: LimitsSection = LimitsSection()
    target: TargetSection = TargetSection()
    search: SearchSection = SearchSection()
    train: TrainSection = TrainSection()
    tracking: TrackingSection = TrackingSection()
    folder: Annotated[Path, Field(exclude=True, strict=False)] = Path()  # relative paths start here

    def digest(self) -> str:
        """Names what was asked, wherever it is written down; the content of model and data is named by the workload."""
        content = self.model_dump(mode="json", exclude={"tracking"})
        if content["train"] == TrainSection().model_dump(mode="json"):
            content.pop("train")
        return digest_json(content)

    def path(self, source: str) -> Path:
        """`source` as a path, relative to the job file."""
        return (self.folder / source).expanduser()

    @classmethod
    def read(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Job:
        """The job in a TOML file; `overrides` such as {"limits.max_drop": 1.0} win. Raises JobError."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf8"))
        except FileNotFoundError:
            raise JobError("job", "must be a file that exists", got=str(path)) from None
        except IsADirectoryError:
            raise JobError("job", "must be a TOML file, not a folder", got=str(path)) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise JobError(f"job {path.name}", f"must be TOML ({error})") from None
        return cls.make(content, folder=path.resolve().parent, overrides=overrides)

    @classmethod
    def make(cls, content: Mapping[str, Any], *, folder: Path = Path(), overrides: Mapping[str, Any] | None = None) -> Job:
        """A validated job. Raises JobError, which names the key, the rule and what came."""
        merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in content.items()}
        for dotted, value in (overrides or {}).items():
            *sections, key = dotted.split(".")
            place = merged
            for section in sections:
                inner = place.get(section, {})
                if not isinstance(inner, Mapping):
                    raise JobError(dotted, "is not a key of the job", hint="`hasten show job` lists every key")
                place[section] = dict(inner)
                place = place[section]
            place[key] = value
        for required in ("model", "data"):
            if required not in merged:
                raise JobError(f"[{required}]", "is missing from the job", hint="`hasten show job` lists every key")
        try:
            job = cls(**{**merged, "folder": folder})
        except ValidationError as error:
            raise _translate(error) from None
        if job.model.source is None and job.model.module is None:
            raise JobError(
                "model.source", "must be an ONNX file or a callable such as model.py:build", hint="`hasten show job` lists every key"
            )
        data = job.data
        if data.content is None and data.source is None and not (data.calibrate and data.select and data.certify):
            raise JobError("data.source", "must be given, or all of data.calibrate, data.select and data.certify")
        if job.train.budget and not (data.train or data.content is not None):
            raise JobError("train.budget", "needs data to train on", hint="Name them in data.train")
        if data.source is not None and (data.calibrate or data.select or data.certify):
            raise JobError("data.source", "must not be given together with data.calibrate, data.select or data.certify")
        return job


def sections() -> dict[str, type[BaseModel]]:
    """Every section of a job file, in order: what `hasten show job` prints."""
    return {
        "model": ModelSection, "data": DataSection, "data.preprocess": ImagePreprocess, "quality": QualitySection,
        "limits": LimitsSection, "target": TargetSection, "search": SearchSection,
        "train": TrainSection, "tracking": TrackingSection,
    }  # fmt: skip


_RULES = {
    "model_type": "must be a section with keys",
    "tuple_type": 'must be a list of names, such as ["a", "b"]',
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
}
"""pydantic's words for what people write in TOML, in plainer ones."""


def _translate(error: ValidationError) -> JobError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        *parents, key = [str(part) for part in first["loc"]]
        model = sections().get(".".join(parents))
        known = [n for n, f in (model or Job).model_fields.items() if not f.exclude]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        way = f"Did you mean {'.'.join([*parents, near[0]])!r}?" if near else f"Known here: {', '.join(known)}"
        return JobError(where, "is not a key of the job", hint=way)
    if first["type"] in _RULES:
        return JobError(where, _RULES[first["type"]], got=first["input"])
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should ")
    rule = f"should {rule}" if first["msg"].startswith("Input should ") else rule[:1].lower() + rule[1:]
    return JobError(where, rule, got=first["input"])
