"""The folder of results: parts that appear whole or not at all, and a journal of those that are finished.

    part-000012-000003.npz    rows of unit 12, slice 3: `input`, `row`, `error` (empty where all is well), each output [rows, ...], and
                              of classifiers `label`, `index`, `score`. Or .jsonl: one object a row
    plan.json                 what was asked: a digest of the bundle and of every input's name, size and time
    journal.jsonl             one line a finished part, with its sha256
    manifest.json             only there when all is finished: the parts and their sums

A part's name says which rows it holds, so that computing it again replaces it: nothing is there twice, whatever died when.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from ..core.digest import sha256_file
from ..core.errors import DiskFull, JobError, NotPossibleHere, is_disk_full
from ..core.locks import only_one

Format = Literal["npz", "jsonl"]
PLAN, JOURNAL, MANIFEST, _LOCK = "plan.json", "journal.jsonl", "manifest.json", ".lock"


@dataclass(kw_only=True)
class Parts:
    """The results in `folder`. done: the journal's lines by unit and slice; num_finished: units; num_rows: of all lines."""

    folder: Path
    format: Format
    done: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    num_finished: int = 0
    num_rows: int = 0
    _there: Counter[int] = field(default_factory=Counter)  # slices of each unit
    _wanted: dict[int, int] = field(default_factory=dict)  # the same, where the last one is there and tells

    def finished(self, unit: int) -> bool:
        """Whether every slice of a unit is there."""
        return self._there[unit] == self._wanted.get(unit)

    def add(self, line: Mapping[str, Any]) -> None:
        """A part that is there."""
        unit = line["unit"]
        self.done[unit, line["slice"]] = dict(line)
        self.num_rows += line["rows"]
        self._there[unit] += 1
        if line["last"]:
            self._wanted[unit] = line["slice"] + 1
        self.num_finished += self.finished(unit)

    def write(self, unit: int, number: int, columns: Mapping[str, np.ndarray], *, last: bool) -> dict[str, Any]:
        """One part, whole; the line that the journal wants of it."""
        name = f"part-{unit:06d}-{number:06d}.{self.format}"
        _atomically(self.folder / name, lambda file: _WRITERS[self.format](file, columns))
        failed = int(np.count_nonzero(columns["error"] != ""))
        return {
            "part": name, "unit": unit, "slice": number, "last": last, "rows": len(columns["error"]), "failed": failed,
            "sha256": sha256_file(self.folder / name),
        }  # fmt: skip

    def note(self, line: Mapping[str, Any]) -> None:
        """A finished part, for ever."""
        with (self.folder / JOURNAL).open("a", encoding="utf8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.add(line)

    def finish(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest, when all is done."""
        lines = [self.done[key] for key in sorted(self.done)]
        document = {**known, "rows": sum(line["rows"] for line in lines), "failed": sum(line["failed"] for line in lines), "parts": lines}
        _atomically(self.folder / MANIFEST, lambda file: file.write((json.dumps(document, indent=1) + "\n").encode()))
        return document


@contextlib.contextmanager
def opened(folder: Path, plan: Mapping[str, Any], form: Format) -> Iterator[Parts]:
    """The results in `folder`, for this process alone: new ones, or those of an earlier call with the same `plan`.

    Raises JobError where something else is there, NotPossibleHere where somebody else is at it or it cannot be written.
    """
    with _errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder / _LOCK, lambda: _busy(folder)):
            _same_plan(folder, plan)
            parts = Parts(folder=folder, format=form)
            for line in _done(folder).values():
                parts.add(line)
            text = "".join(json.dumps(line) + "\n" for line in parts.done.values())  # without what a kill has torn
            _atomically(folder / JOURNAL, lambda file: file.write(text.encode()))
            yield parts


def _same_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    path = folder / PLAN
    if path.exists():
        before = json.loads(path.read_bytes())
        if changed := sorted(key for key in {*plan, *before} if plan.get(key) != before.get(key)):
            raise JobError(
                "output", f"holds results of another call: {' and '.join(changed)} changed", got=str(folder), hint="Name another folder"
            )
        return
    if any(child.name != _LOCK for child in folder.iterdir()):
        raise JobError("output", "must be a new or empty folder, or one of an earlier call", got=str(folder))
    _atomically(path, lambda file: file.write((json.dumps(plan) + "\n").encode()))


def _done(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """What the journal says, as far as its parts are as it says."""
    found = {}
    lines = (folder / JOURNAL).read_text(encoding="utf8").splitlines() if (folder / JOURNAL).exists() else []
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:  # torn by a kill: its part is computed again
            continue
        path = folder / line["part"]
        if path.is_file() and sha256_file(path) == line["sha256"]:
            found[line["unit"], line["slice"]] = line
    return found


def _npz(file: BinaryIO, columns: Mapping[str, np.ndarray]) -> None:
    np.savez(file, **columns)  # type: ignore[arg-type]


def _jsonl(file: BinaryIO, columns: Mapping[str, np.ndarray]) -> None:
    lists = {name: _json_values(array) for name, array in columns.items()}
    for row in zip(*lists.values(), strict=True):
        file.write((json.dumps(dict(zip(lists, row, strict=True)), ensure_ascii=False, allow_nan=False) + "\n").encode())


def _json_values(array: np.ndarray) -> list[Any]:
    """Rows as JSON holds them: NaN and infinity are null."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return list(array.tolist())
    masked = array.astype(object)
    masked[~np.isfinite(array)] = None
    return list(masked.tolist())


_WRITERS: Mapping[Format, Callable[[BinaryIO, Mapping[str, np.ndarray]], None]] = {"npz": _npz, "jsonl": _jsonl}


def _atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what was being written when a run was killed. Only while nobody writes."""
    for leftover in folder.glob(".*.*-*"):
        leftover.unlink()


def _busy(folder: Path) -> None:
    raise NotPossibleHere("output", "is being written by another process", got=str(folder), hint="Wait for it, or name another folder")


@contextlib.contextmanager
def _errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull from None
        raise NotPossibleHere("output", f"cannot be written ({error.strerror or error})", got=str(folder)) from None
