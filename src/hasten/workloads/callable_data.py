"""Data from a function of the user: `file.py:function` or `package.module:function`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..core.callables import call, is_callable_source
from ..core.errors import DataError
from ..core.job import DataSection
from ..core.samples import Samples, as_parts
from ..core.seams import Reader


@dataclass(frozen=True, kw_only=True)
class CallableData(Reader):
    """A function without arguments that returns arrays, (inputs, labels), a dict of arrays, or the three splits of these."""

    name: ClassVar[str] = "callable"

    def fits(self, source: str, path: Path) -> str | None:
        return None if is_callable_source(source) else "must be file.py:function or package.module:function"

    def read(self, source: str, path: Path, data: DataSection) -> Mapping[str, Samples]:
        content = call(source, _folder(source, path), field="data.source", what="inputs or (inputs, labels)", error=DataError)
        parts = as_parts(content, where=source)
        if data.limit is None:
            return parts
        return {name: part.take(np.arange(min(data.limit, len(part)))) for name, part in parts.items()}


def _folder(source: str, path: Path) -> Path:
    """The folder of the job: `path` without `source`."""
    written = Path(source)
    if written.is_absolute() or source.startswith("~"):
        return Path()
    return path.parents[len(written.parts) - 1]
