"""What `hasten list` and `hasten show` know: read from the classes themselves, so that a new plug-in is there at once."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from .core.errors import JobError

if TYPE_CHECKING:
    from .core.seams import Runtime, Technique
    from .measure.quality import Metric


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a list. note: where it stands or whether it is here."""

    name: str
    note: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """One key and what it means. default: as a job file would write it; empty where there is none."""

    key: str
    type: str
    default: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Keys that belong together."""

    title: str
    options: tuple[Option, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """All about one name."""

    title: str
    text: str
    sections: tuple[Section, ...] = ()


def techniques() -> list[Entry]:
    """Every technique."""
    return [Entry(name=name, note=_floor(kind), what=_first_sentence(kind)) for name, kind in _techniques().items()]


def runtimes() -> list[Entry]:
    """Every runtime, and whether it runs here."""
    from .core.machine import usable_cores
    from .core.seams import Target

    target = Target(threads=usable_cores())
    return [Entry(name=n, note=kind().fits(None, target) or "ok", what=_first_sentence(kind)) for n, kind in _runtimes().items()]


def metrics() -> list[Entry]:
    """Every measure of quality, and the labels that it needs."""
    return [Entry(name=name, note=_NEEDS[metric.needs], what=metric.help) for name, metric in _metrics().items()]


KINDS: Mapping[str, tuple[str, Callable[[], list[Entry]]]] = {
    "techniques": ("floor", techniques),
    "runtimes": ("here", runtimes),
    "metrics": ("needs", metrics),
}
"""What can be listed: the heading of the note, and the list."""

_NEEDS = {"classes": "class labels", "targets": "target values", "nothing": "no labels"}


def page(name: str) -> Page:
    """All about a technique, a runtime, a metric or `job`. Raises JobError with the nearest name."""
    if name == "job":
        return _job()
    plugins: dict[str, type[Technique] | type[Runtime]] = {**_techniques(), **_runtimes()}
    if name in plugins:
        return _plugin(plugins[name])
    if name in (known := _metrics()):
        metric = known[name]
        needs = _NEEDS[metric.needs]
        return Page(
            title=f"{name}: a measure of quality",
            text=f"{metric.help}\n\nUnit: {metric.unit}. Needs: {needs}. Drops are in {metric.loss_unit}.",
        )
    names = ["job", *plugins, *known]
    near = difflib.get_close_matches(name, names, n=1)
    raise JobError("name", "must be a technique, a runtime, a metric or `job`", got=name,
                   hint=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}")  # fmt: skip


def _techniques() -> dict[str, type[Technique]]:
    from .core.registry import find
    from .core.seams import Technique

    return find(Technique)


def _runtimes() -> dict[str, type[Runtime]]:
    from .core.registry import find
    from .core.seams import Runtime

    return find(Runtime)


def _metrics() -> Mapping[str, Metric]:
    from .measure.quality import METRICS

    return METRICS


def _plugin(kind: type[Technique] | type[Runtime]) -> Page:
    from .core.seams import Technique

    text = [_doc(kind), "", f"Works on the floor: {_floor(kind)}."]
    if issubclass(kind, Technique):
        for label, facts in (("Needs", kind.needs), ("Adds", kind.adds), ("Does not go with", kind.forbids)):
            if facts:
                text.append(f"{label}: {', '.join(sorted(facts))}.")
    options = tuple(_option(f) for f in fields(kind))  # type: ignore[arg-type]  # every one is a dataclass
    what = "technique" if issubclass(kind, Technique) else "runtime"
    return Page(
        title=f"{kind.name}: a {what}", text="\n".join(text), sections=(Section(title="Options", options=options),) if options else ()
    )


def _option(field: Field[Any]) -> Option:
    meta = field.metadata
    what = [str(meta.get("help", ""))]
    if meta.get("choices"):
        what.append(f"A search tries: {', '.join(map(str, meta['choices']))}.")
    if meta.get("allowed") and meta["allowed"] != meta["choices"]:
        what.append(f"One of: {', '.join(map(str, meta['allowed']))}.")
    low, high = meta.get("low"), meta.get("high")
    if low is not None and high is not None:
        what.append(f"From {low:g} to {high:g}.")
    elif low is not None or high is not None:
        what.append(f"At least {low:g}." if low is not None else f"At most {high:g}.")
    if meta.get("unit"):
        what.append(f"Unit: {meta['unit']}.")
    kind = _type_name(field.type)
    return Option(key=field.name, type=kind, default="" if field.default is MISSING else str(field.default), what=" ".join(what))


def _job() -> Page:
    from .core.job import sections

    text = "A job file is TOML. Paths start at its own folder. On the command line: --set SECTION.KEY=VALUE."
    return Page(
        title="job: what is asked",
        text=text,
        sections=tuple(
            Section(
                title=f"[{name}]  {_first_sentence(model)}",
                options=tuple(
                    Option(key=key, type=_type_text(info.annotation), default=_default_text(info), what=info.description or "")
                    for key, info in model.model_fields.items()
                    if not info.exclude
                ),
            )
            for name, model in sections().items()
        ),
    )


def _type_name(annotation: Any) -> str:
    """A dataclass field's type, which may be text, as people call it."""
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return next((words for plain, words in _PLAIN_TYPES.items() if plain.__name__ == name), name)


_PLAIN_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def _type_text(annotation: Any) -> str:
    """A type as people call it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(args[0])
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, UnionType):
        return " or ".join(_type_text(arg) for arg in args if arg is not NoneType)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"list of {_type_text(args[0])}"
        return "[" + ", ".join(_type_text(arg) for arg in args) + "]"
    return _PLAIN_TYPES.get(annotation, "table")


def _default_text(info: Any) -> str:
    if info.is_required() or info.default is None:
        return ""
    if isinstance(info.default, bool):
        return str(info.default).lower()
    if isinstance(info.default, float):
        return f"{info.default:.6g}"
    return str(list(info.default)) if isinstance(info.default, tuple) else str(info.default)


def _floor(kind: type[Technique] | type[Runtime]) -> str:
    from .core.seams import Technique

    return f"{kind.floor}, lossless" if issubclass(kind, Technique) and kind.lossless else str(kind.floor)


def _doc(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


def _first_sentence(kind: type) -> str:
    return " ".join(_doc(kind).split("\n\n")[0].split())
