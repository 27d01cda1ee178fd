"""What a folder of inputs holds, in units of work that are the same each time one looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import registry
from ..core.callables import one_line
from ..core.errors import DataError, HastenError
from ..core.job import DataSection
from ..core.seams import Reader

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
TABLES = frozenset({".csv", ".npy", ".npz", ".parquet"})
ROWS = 4096
"""Rows of a table in one part of the result."""
PICTURES_TOGETHER = 256


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is read at once: some pictures, or one table. names: relative to the folder; pictures: whether they are such."""

    number: int
    names: tuple[str, ...]
    pictures: bool


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some rows of a unit, whose answers are one part of the result.

    unit: its number; number: within its unit; last: of its unit; names: the file of each row; rows: its place in the file; inputs:
    by name as `Bundle.prepare` takes them, pictures encoded; error: why the unit cannot be read, and then there is one row without
    inputs.
    """

    unit: int
    number: int
    last: bool
    names: Sequence[str]
    rows: Sequence[int]
    inputs: Mapping[str, Any]
    error: str = ""

    def take(self, start: int, stop: int) -> dict[str, Any]:
        return {name: values[start:stop] for name, values in self.inputs.items()}


def find(folder: Path) -> list[Path]:
    """The files below `folder` (or the one file), sorted by name; hidden ones are left out. Raises DataError where there is none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError("input", "must be a folder or a file that exists", got=str(folder))
    files = (p for p in folder.rglob("*") if p.suffix.lower() in PICTURES | TABLES and not _hidden(p, folder) and p.is_file())
    found = sorted(files, key=lambda path: path.relative_to(folder).as_posix())
    if not found:
        raise DataError("input", f"must hold files that end with {', '.join(sorted(PICTURES | TABLES))}", got=str(folder))
    return found


def units(folder: Path, files: Sequence[Path]) -> list[Unit]:
    """`files` in units: each table is one, and pictures are taken together."""
    names = {path: path.relative_to(root_of(folder)).as_posix() for path in files}
    pictures = [names[p] for p in files if p.suffix.lower() in PICTURES]
    groups = [(tuple(pictures[at : at + PICTURES_TOGETHER]), True) for at in range(0, len(pictures), PICTURES_TOGETHER)]
    groups += [((names[p],), False) for p in files if p.suffix.lower() not in PICTURES]
    return [Unit(number=number, names=group, pictures=kind) for number, (group, kind) in enumerate(groups)]


def root_of(folder: Path) -> Path:
    return folder.parent if folder.is_file() else folder


def slices(folder: Path, unit: Unit) -> Iterator[Slice]:
    """The rows of `unit`. A table that cannot be read is one row with the error: no input is passed over in silence."""
    root = root_of(folder)
    if unit.pictures:
        encoded = [_bytes(root / name) for name in unit.names]
        yield Slice(unit=unit.number, number=0, last=True, names=unit.names, rows=[0] * len(unit.names), inputs={"": encoded})
        return
    (name,) = unit.names
    try:
        inputs = _table(root / name)
        count = _length(inputs)
    except HastenError as error:
        yield Slice(unit=unit.number, number=0, last=True, names=[name], rows=[-1], inputs={}, error=str(error))
        return
    for number, start in enumerate(range(0, count, ROWS)):
        rows = range(start, min(start + ROWS, count))
        part = {key: values[start : rows.stop] for key, values in inputs.items()}
        yield Slice(unit=unit.number, number=number, last=rows.stop == count, names=[name] * len(rows), rows=rows, inputs=part)


def _bytes(path: Path) -> bytes:
    """The file; nothing where it has gone or cannot be read, which no decoder takes for a picture."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _table(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() == ".npy":
        try:
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        except (OSError, ValueError, EOFError) as error:
            raise DataError(path.name, f"must be an .npy file of numbers ({one_line(error)})") from None
    for reader in registry.find(Reader).values():
        if path.suffix.lower() == f".{reader.name}" and reader().fits(path.name, path) is None:
            return reader().read(path.name, path, DataSection(source=path.name))["all"].inputs
    raise DataError(path.name, "must be of a kind that can be read")


def _length(inputs: Mapping[str, Any]) -> int:
    lengths = {len(values) for values in inputs.values() if np.ndim(values) or not isinstance(values, np.ndarray)}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError("inputs", "must have the same number of rows, at least one", got=sorted(lengths))
    return lengths.pop()


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
