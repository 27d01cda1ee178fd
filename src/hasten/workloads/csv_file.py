"""Numbers in a .csv file with a header."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..core.errors import DataError
from ..core.job import DataSection
from ..core.labels import LABEL_NAMES, class_numbers, find_column
from ..core.samples import Samples
from ..core.seams import Reader

Row = tuple[int, list[str]]  # the line it ends on, and its cells


@dataclass(frozen=True, kw_only=True)
class Csv(Reader):
    """The numeric columns, in their order, are one float32 input [N, columns]. Columns without any number are left out.

    Labels: whole numbers are classes, other numbers are targets, and text names classes.
    """

    name: ClassVar[str] = "csv"

    def fits(self, source: str, path: Path) -> str | None:
        return None if source.lower().endswith(".csv") else "must end with .csv"

    def read(self, source: str, path: Path, data: DataSection) -> Mapping[str, Samples]:
        header, rows = _rows(source, path, data.limit)
        label = find_column(header, data.label, LABEL_NAMES, where=source, key="data.label")
        columns = [_numbers(source, name, k, rows) for k, name in enumerate(header) if name != label]
        numeric = [column for column in columns if column is not None]
        if not numeric:
            raise DataError(source, "must hold at least one numeric column besides the label")
        inputs = {"": np.stack(numeric, axis=1)}
        if label is None:
            return {"all": Samples(inputs=inputs)}
        k = header.index(label)
        labels, classes = _labels([cells[k].strip() for _, cells in rows], data.labels, f"{source}, column {label!r}")
        return {"all": Samples(inputs=inputs, labels=labels, classes=classes)}


def _rows(source: str, path: Path, limit: int | None) -> tuple[list[str], list[Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            filled = ((reader.line_num, cells) for cells in reader if cells)
            rows = list(itertools.islice(filled, limit))
    except FileNotFoundError:
        raise DataError(source, "must be a file that exists", hint="Paths start at the folder of the job file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(source, f"must be a .csv file in UTF-8 ({error})") from None
    if not rows:
        raise DataError(source, "must hold a header and at least one row")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(source, "must name each column once", got=twice)
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{source}, line {line}", f"must have {len(header)} cells, like the header", got=len(cells))
    return header, rows


def _numbers(source: str, name: str, k: int, rows: Sequence[Row]) -> np.ndarray | None:
    """Column `k` as float32 [N]; None where no cell is a number. Raises DataError at the first cell that is none."""
    values = np.empty(len(rows), dtype=np.float32)
    bad: Row | None = None
    any_number = False
    for i, row in enumerate(rows):
        try:
            values[i] = float(row[1][k])
            any_number = True
        except ValueError:
            bad = bad or row
    if not any_number:
        return None
    if bad is not None:
        raise DataError(f"{source}, line {bad[0]}, column {name!r}", "must be a number", got=bad[1][k])
    return values


def _labels(texts: list[str], known: Sequence[str] | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    for kind in (np.int64, np.float32):
        try:
            return np.array([(int if kind is np.int64 else float)(text) for text in texts], dtype=kind), ()
        except ValueError:
            continue
    if "" in texts:
        raise DataError(where, "must have a label in every row", got=f"none in row {texts.index('') + 1}")
    return class_numbers(texts, known, where=where)
