"""What people see on standard output, and the one JSON document that programs read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_FILE_WIDTH = 160  # columns of a table that no terminal shows


@cache
def console(*, stderr: bool = False) -> Console:
    """The one console of each stream. Text is printed as it is: markup and emoji codes in a model's name stay what they are."""
    from rich.console import Console

    result = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not result.is_terminal and "COLUMNS" not in os.environ:
        result.width = _FILE_WIDTH
    return result


def say(*lines: str) -> None:
    """Lines of text."""
    for line in lines:
        console().print(line, soft_wrap=True)


def show(renderable: Any) -> None:
    """A table or a panel."""
    console().print(renderable)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under a head; no lines, so that it can be cut and searched."""
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    show(result)


def document(value: Any) -> None:
    """One JSON document on one line. Numbers that JSON does not have become null."""
    print(json.dumps(_plain(value), allow_nan=False, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "tolist"):  # arrays and numpy's scalars
        return _plain(value.tolist())
    return str(value)
