"""Runs a bundle over a folder of inputs into a folder of results.

What answers may be this process or many machines; what writes is this process alone, part by part, each with its line in the journal.
So whatever dies, no row is there twice and none is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.layout import MANIFEST
from ..bundle.read import Bundle
from ..core.digest import digest_json, sha256_file
from ..core.errors import JobError
from ..core.job import check_workers
from ..core.machine import usable_cores
from ..core.need import require
from . import sources
from .nodes_ray import Nodes
from .parts import Format, Parts, opened, sweep
from .sources import Slice, Unit
from .worker import Answerer, Worker


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is: units done of all of them, and rows answered, those of earlier calls too."""

    done: int
    units: int
    rows: int


def run(
    bundle: Path,
    source: Path,
    out: Path,
    *,
    form: Format = "npz",
    workers: str | None = None,
    tell: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Answer every row of `source` once, and go on where an earlier call was ended. Returns the manifest of the results.

    workers: None, `ray` or `ray://host:port`; then the manifest that is returned also says how many `nodes` answered in this call.
    A row that cannot be answered has its error beside it, and the others go on. Raises JobError, DataError, BundleError, NotPossibleHere,
    MissingExtra.
    """
    _check(workers)
    files, known = sources.find(source), Bundle.open(bundle)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise JobError("output", "must not lie within the input", got=str(out))
    plan = {"bundle": sha256_file(known.path / MANIFEST), "inputs": _digest(source, files), "format": form}
    units, num_nodes = sources.units(source, files), 0
    with opened(out, plan, form) as parts:
        sweep(out)
        tell(_progress(parts, units))
        if parts.num_finished < len(units):
            with _answerer(bundle, workers) as answerer:
                for answered in answerer.answers(_missing(source, units, parts)):
                    parts.note(parts.write(answered.unit, answered.number, answered.columns, last=answered.last))
                    tell(_progress(parts, units))
                num_nodes = answerer.num_nodes
        manifest = parts.finish({"bundle": known.name, **plan})
    return manifest if workers is None else {**manifest, "nodes": num_nodes}


def _check(workers: str | None) -> None:
    """What can be refused before anything is read or started. Raises JobError, MissingExtra."""
    try:
        check_workers(workers)
    except ValueError as error:
        raise JobError("workers", str(error), got=workers) from None
    if workers is not None:
        require("ray", why="for --workers")


def _answerer(bundle: Path, workers: str | None) -> Answerer:
    """Who answers. Raises BundleError, NotPossibleHere."""
    return Worker(bundle, usable_cores()) if workers is None else Nodes(bundle, workers)


def _missing(source: Path, units: Sequence[Unit], parts: Parts) -> Iterator[Slice]:
    """The slices that are not done."""
    for unit in units:
        if not parts.finished(unit.number):
            for piece in sources.slices(source, unit):
                if (unit.number, piece.number) not in parts.done:
                    yield piece


def _progress(parts: Parts, units: Sequence[Unit]) -> Progress:
    return Progress(done=parts.num_finished, units=len(units), rows=parts.num_rows)


def _digest(source: Path, files: Sequence[Path]) -> str:
    """Of the inputs' names, sizes and times."""
    root = sources.root_of(source)
    return digest_json([[path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files])
