"""Which column holds the label, and what numbers the classes have: the same for every format."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from .errors import DataError

LABEL_NAMES = ("label", "labels", "target", "y")
"""Names that mean the label where the job does not say."""


def find_column(names: Iterable[str], wanted: str | None, defaults: Sequence[str], *, where: str, key: str) -> str | None:
    """The column called `wanted`, else the first of `defaults` that is there, else None.

    where: the source, and key: the key of the job (`data.label`), for messages. Raises DataError where `wanted` is missing.
    """
    known = list(names)
    if wanted is None:
        return next((name for name in defaults if name in known), None)
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        way = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(known)}"
        raise DataError(key, f"must name a column of {where}", got=wanted, hint=way)
    return wanted


def class_numbers(names: Sequence[str], known: Sequence[str] | None, *, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The number of each class name, int64 [N], and all class names in that order.

    known: `data.labels` of the job, whose order counts; without it the names are sorted. Raises DataError for a name
    that is not in `known`.
    """
    classes = tuple(known) if known is not None else tuple(sorted(set(names)))
    number = {name: index for index, name in enumerate(classes)}
    for name in names:
        if name not in number:
            near = difflib.get_close_matches(name, classes, n=1)
            way = f"Did you mean {near[0]!r}?" if near else "Add it there"
            raise DataError(where, "must use the class names of data.labels only", got=name, hint=way)
    return np.array([number[name] for name in names], dtype=np.int64), classes
