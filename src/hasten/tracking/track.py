"""A bundle, or the evidence of a search without an answer, into MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle.read import Bundle
from ..core.need import require
from ..measure.worker import State, Worker
from .place import Place
from .runs import Search
from .write import Tracked, write


def track(source: Path | Sequence[Mapping[str, Any]], place: Place, experiment: str) -> Tracked:
    """Write what `source` tells, a bundle's folder or lines of evidence, unless it was written before.

    It happens in a child: MLflow imports much, sets variables of its process and logs to its standard error; here nobody
    notices, and nothing that goes wrong there is more than a HastenError here. Raises BundleError, NotPossibleHere, MissingExtra.
    """
    check()
    with Worker("tracking") as worker:
        return worker.call(_track, source, place, experiment)


def check() -> None:
    """Raises MissingExtra where the packages are not installed."""
    for package in ("mlflow", "sqlalchemy", "alembic"):
        require(package, why="to track searches")


def _track(state: State, source: Path | Sequence[Mapping[str, Any]], place: Place, experiment: str) -> Tracked:
    if isinstance(source, Path):
        bundle = Bundle.open(source)
        return write(Search.of(bundle.evidence), bundle, place, experiment)
    return write(Search.of(source), None, place, experiment)
