"""Columns of a .parquet file: encoded pictures, or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..core.callables import one_line
from ..core.errors import DataError
from ..core.job import DataSection
from ..core.labels import LABEL_NAMES, class_numbers, find_column
from ..core.need import need
from ..core.samples import Samples
from ..core.seams import Reader


@dataclass(frozen=True, kw_only=True)
class Parquet(Reader):
    """The picture column (bytes, or a struct {bytes, path}) is the one input; without it, each column of numbers or of
    equally long lists of numbers is an input by its name. Other columns are left out."""

    name: ClassVar[str] = "parquet"
    packages: ClassVar[tuple[str, ...]] = ("pyarrow",)

    def fits(self, source: str, path: Path) -> str | None:
        return None if source.lower().endswith(".parquet") else "must end with .parquet"

    def read(self, source: str, path: Path, data: DataSection) -> Mapping[str, Samples]:
        file = _open(source, path)
        names = file.schema_arrow.names
        label = find_column(names, data.label, LABEL_NAMES, where=source, key="data.label")
        image = find_column(names, data.image, ("image",), where=source, key="data.image")
        wanted = [image] if image else [f.name for f in file.schema_arrow if f.name != label and _is_numeric(f.type)]
        if not wanted:
            raise DataError(source, "must hold a column of pictures or of numbers besides the label", got=names)
        table = _table(source, file, [*wanted, *([label] if label else [])], data.limit)
        inputs = {"": _pictures(source, image, table)} if image else {n: _dense(source, n, table.column(n)) for n in wanted}
        if label is None:
            return {"all": Samples(inputs=inputs)}
        labels, classes = _labels(source, label, table.column(label), data)
        return {"all": Samples(inputs=inputs, labels=labels, classes=classes)}


def _open(source: str, path: Path) -> Any:
    parquet = need("pyarrow.parquet", why="to read .parquet files")
    if not path.is_file():
        raise DataError(source, "must be a file that exists", hint="Paths start at the folder of the job file")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise DataError(source, f"must be a .parquet file ({one_line(error)})") from None


def _table(source: str, file: Any, columns: list[str], limit: int | None) -> Any:
    """The first `limit` rows; no more row groups than that takes are read."""
    arrow = need("pyarrow")
    batches, rows = [], 0
    try:
        for batch in file.iter_batches(columns=columns):
            batches.append(batch)
            rows += len(batch)
            if limit is not None and rows >= limit:
                break
    except (OSError, ValueError) as error:
        raise DataError(source, f"must be a .parquet file that can be read to its end ({one_line(error)})") from None
    if rows == 0:
        raise DataError(source, "must hold at least one row")
    return arrow.Table.from_batches(batches).slice(0, limit)


def _is_numeric(kind: Any) -> bool:
    types = need("pyarrow").types
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _pictures(source: str, name: str, table: Any) -> list[bytes]:
    arrow = need("pyarrow")
    column = table.column(name)
    if arrow.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = need("pyarrow.compute").struct_field(column, "bytes")
    if not (arrow.types.is_binary(column.type) or arrow.types.is_large_binary(column.type)):
        raise DataError(f"{source}, column {name!r}", "must hold encoded pictures as bytes", got=str(column.type))
    _no_gaps(source, name, column)
    return column.to_pylist()  # type: ignore[no-any-return]


def _dense(source: str, name: str, column: Any) -> np.ndarray:
    """The column as an array [N, ...]; lists become axes."""
    _no_gaps(source, name, column)
    array = column.combine_chunks()
    if not hasattr(array, "flatten") or not hasattr(array.type, "value_type"):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    lengths = need("pyarrow.compute").list_value_length(array).to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any():
        row = int(np.argmax(lengths != lengths[0]))
        raise DataError(f"{source}, row {row + 1}, column {name!r}", f"must have {lengths[0]} numbers, like row 1", got=int(lengths[row]))
    inner = _dense(source, name, need("pyarrow").chunked_array([array.flatten()]))
    return inner.reshape(len(lengths), int(lengths[0]), *inner.shape[1:])


def _labels(source: str, name: str, column: Any, data: DataSection) -> tuple[np.ndarray, tuple[str, ...]]:
    _no_gaps(source, name, column)
    where = f"{source}, column {name!r}"
    if _is_numeric(column.type):
        return _dense(source, name, column), ()
    values = column.to_pylist()
    if not all(isinstance(value, str) for value in values):
        raise DataError(where, "must hold class numbers, targets or class names", got=str(column.type))
    return class_numbers(values, data.labels, where=where)


def _no_gaps(source: str, name: str, column: Any) -> None:
    if column.null_count:
        row = next(i for i, chunk in enumerate(column.is_valid()) if not chunk.as_py())
        raise DataError(f"{source}, row {row + 1}, column {name!r}", "must have a value", got=None)
