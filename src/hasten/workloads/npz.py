"""Arrays in an .npz file of numpy."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..core.callables import one_line
from ..core.errors import DataError
from ..core.job import DataSection
from ..core.labels import LABEL_NAMES, class_numbers, find_column
from ..core.samples import Samples
from ..core.seams import Reader


@dataclass(frozen=True, kw_only=True)
class Npz(Reader):
    """Each array is an input by its name, [N, ...]; the label array aside. A single input needs no particular name."""

    name: ClassVar[str] = "npz"

    def fits(self, source: str, path: Path) -> str | None:
        return None if source.lower().endswith(".npz") else "must end with .npz"

    def read(self, source: str, path: Path, data: DataSection) -> Mapping[str, Samples]:
        arrays = {name: array[: data.limit] for name, array in _load(source, path).items()}
        label = find_column(arrays, data.label, LABEL_NAMES, where=source, key="data.label")
        labels = arrays.pop(label) if label else None
        classes: tuple[str, ...] = ()
        if not arrays:
            raise DataError(source, "must hold at least one array besides the labels")
        if labels is not None and labels.dtype.kind == "U":
            labels, classes = class_numbers(labels.tolist(), data.labels, where=f"{source}.{label}")
        for name, array in [*arrays.items(), *([(label, labels)] if labels is not None else [])]:
            if array.dtype.kind not in "biuf":
                raise DataError(f"{source}.{name}", "must be an array of numbers", got=str(array.dtype))
        inputs = {"": next(iter(arrays.values()))} if len(arrays) == 1 else arrays
        return {"all": Samples(inputs=inputs, labels=labels, classes=classes)}


def _load(source: str, path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(source, "must be a file that exists", hint="Paths start at the folder of the job file")
    try:
        with zipfile.ZipFile(path):
            pass  # numpy reads a file that is no zip as a pickle, and complains about that
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(source, f"must be an .npz file of plain arrays ({one_line(error)})") from None
    for name, array in arrays.items():
        if array.ndim == 0:
            raise DataError(f"{source}.{name}", "must be an array [N, ...]", got="a single number")
    return arrays
