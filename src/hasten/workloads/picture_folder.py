"""Pictures in a folder with one folder for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..core.errors import DataError
from ..core.job import DataSection
from ..core.labels import class_numbers
from ..core.samples import Samples
from ..core.seams import Reader

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class PictureFolder(Reader):
    """CLASS/any/picture.png: sorted by class, then by path. `data.limit` is spread evenly over the classes."""

    name: ClassVar[str] = "folder"

    def fits(self, source: str, path: Path) -> str | None:
        return None if path.is_dir() else "must be a folder of class folders"

    def read(self, source: str, path: Path, data: DataSection) -> Mapping[str, Samples]:
        by_class = {folder.name: _pictures(folder) for folder in sorted(path.iterdir()) if folder.is_dir() and folder.name[0] != "."}
        by_class = {name: pictures for name, pictures in by_class.items() if pictures}
        if not by_class:
            raise DataError(source, "must hold class folders with pictures", hint=f"Pictures end with {', '.join(sorted(SUFFIXES))}")
        chosen = _spread(by_class, data.limit)
        names = [name for name, files in chosen.items() for _ in files]
        labels, classes = class_numbers(names, data.labels or list(by_class), where=source)
        pictures = [file.read_bytes() for files in chosen.values() for file in files]
        return {"all": Samples(inputs={"": pictures}, labels=labels, classes=classes)}


def _pictures(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.name[0] != "." and file.is_file())
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _spread(by_class: Mapping[str, list[Path]], limit: int | None) -> dict[str, list[Path]]:
    """At most `limit` pictures: one of each class in turn, until there are enough."""
    if limit is None:
        return dict(by_class)
    turns = sorted((turn, k, name) for k, (name, files) in enumerate(by_class.items()) for turn in range(min(len(files), limit)))
    counts = dict.fromkeys(by_class, 0)
    for _, _, name in turns[:limit]:
        counts[name] += 1
    return {name: by_class[name][:count] for name, count in counts.items()}
