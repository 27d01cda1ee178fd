"""Options that several verbs have, and how a command line becomes a Job."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..core.errors import JobError

if TYPE_CHECKING:
    from ..core.job import Job

F = TypeVar("F", bound=Callable[..., Any])

OBJECTIVES = ("latency", "throughput", "size", "memory", "energy")
PATH = click.Path(path_type=Path)
"""A path that is checked by the verb, whose message says more."""


def everywhere(command: F) -> F:
    """--plugin and --debug: before the verb or after it."""

    def load(ctx: click.Context, _: click.Parameter, files: Sequence[Path]) -> None:
        if files:
            from ..core.registry import add_plugin

            for file in files:
                add_plugin(file)

    def debug(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and ctx.obj is not None:
            ctx.obj.debug = True

    options = (
        click.option(
            "--plugin", multiple=True, type=click.Path(path_type=Path), expose_value=False, callback=load, metavar="FILE",
            help="Python file with techniques, runtimes, readers or checks of yours. Repeatable.",
        ),
        click.option("--debug", is_flag=True, expose_value=False, is_eager=True, callback=debug, help="Show tracebacks."),
    )  # fmt: skip
    for option in options:
        command = option(command)
    return command


def as_json(command: F) -> F:
    """--json."""
    return click.option("--json", "json_", is_flag=True, help="Print one JSON document, as the last line.")(command)


def workers(does: str) -> Callable[[F], F]:
    """--workers. does: what is done there, the beginning of a sentence."""
    return click.option("--workers", metavar="ray|ray://HOST:PORT", help=f"{does} on the nodes of a Ray cluster. `ray` starts one here.")


def request(command: F) -> F:
    """SOURCE and the options that say what is asked of it."""
    options = (
        click.argument("source", metavar="JOB.toml|MODEL.onnx|FILE.py:FUNCTION"),
        click.option("--data", metavar="PATH|FILE.py:FUNCTION", help=".npz, .parquet, .csv, a folder of class folders, or a callable."),
        click.option("--budget", metavar="TIME", help="Time for the search: 90s, 5m, 1h30m. Default: 5m."),
        click.option("--max-drop", type=float, metavar="POINTS", help="Quality that may be lost, in points. Default: 0.5."),
        click.option("--objective", type=click.Choice(OBJECTIVES), help="What to minimise. Default: latency."),
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads that may be used. Default: all cores."),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of `hasten show job`. Repeatable."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def read_job(
    source: str, *, data: str | None, budget: str | None, max_drop: float | None, objective: str | None, threads: int | None,
    settings: Sequence[str], workers: str | None = None, train_budget: str | None = None,
) -> Job:  # fmt: skip
    """The job that the options of `request` ask for. Raises JobError."""
    from ..core.job import Job

    flags: dict[str, Any] = {
        "data.source": data,
        "search.budget": budget,
        "limits.max_drop": max_drop,
        "search.objective": objective,
        "target.threads": threads,
        "search.workers": workers,
        "train.budget": train_budget,
    }
    overrides = {key: value for key, value in flags.items() if value is not None} | parse_settings(settings)
    if source.endswith(".toml"):
        return Job.read(Path(source), overrides)
    if data is None and not any(key.startswith("data.") for key in overrides):
        raise JobError("--data", "must be given with a model", hint="Add --data data.npz, a .parquet, a .csv, a folder or file.py:function")
    return Job.make({"model": {"source": source}, "data": {}}, overrides=overrides)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`["limits.max_drop=1", ...]` as a mapping. A value is TOML; a bare word is text. Raises JobError."""
    return dict(_parse_setting(setting) for setting in settings)


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    key = key.strip()
    if not equals or "." not in key or not all(part.isidentifier() for part in key.split(".")):
        raise JobError("--set", "must be SECTION.KEY=VALUE", got=setting, hint="For example --set limits.max_drop=1.0")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return key, text.strip()
    return key, parsed["value"] if set(parsed) == {"value"} else text


def model_name(source: str) -> str:
    """What to call the answer to `source`: the default of --out is out/ and this."""
    path = Path(source.split(":")[0])
    if path.suffix == ".toml" and path.stem == "job":
        return path.resolve().parent.name
    return path.stem if path.suffix in (".toml", ".onnx", ".py") else path.name.rpartition(".")[2]
