"""Runs a bundle over a folder of inputs into a folder of results."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..bundle.layout import MANIFEST
from ..bundle.read import Bundle
from ..core.digest import digest_json, sha256_file
from ..core.errors import HastenError, JobError
from ..core.machine import usable_cores
from . import sources
from .parts import Format, Parts, opened, sweep
from .sources import Slice, Unit

Outputs = dict[str, np.ndarray]
_BATCH = 32  # samples a call, where no throughput was measured


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is: units done of all of them, and rows answered, those of earlier calls too."""

    done: int
    units: int
    rows: int


def run(
    bundle: Path, source: Path, out: Path, *, form: Format = "npz", tell: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Answer every row of `source` once, and go on where an earlier call was ended. Returns the manifest of the results.

    A row that cannot be answered has its error beside it, and the others go on. Raises JobError, DataError, BundleError, NotPossibleHere.
    """
    files, known = sources.find(source), Bundle.open(bundle)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise JobError("output", "must not lie within the input", got=str(out))
    plan = {"bundle": sha256_file(known.path / MANIFEST), "inputs": _digest(source, files), "format": form}
    units = sources.units(source, files)
    with opened(out, plan, form) as parts:
        sweep(out)
        with Worker(bundle) as worker:
            for unit in units:
                tell(_progress(parts, units))
                if not parts.finished(unit.number):
                    for line in worker.lines(source, unit, parts):
                        parts.note(line)
            tell(_progress(parts, units))
        return parts.finish({"bundle": known.name, **plan})


class Worker:
    """Answers units with one bundle: pictures are decoded by as many threads as there are cores, while the program computes."""

    def __init__(self, bundle: Path) -> None:
        self._exit = ExitStack()
        self._bundle = self._exit.enter_context(Bundle.open(bundle)).load()
        self._pool = self._exit.enter_context(ThreadPoolExecutor(usable_cores(), thread_name_prefix="hasten-prepare"))
        self._size = _best_batch(self._bundle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exit.close()

    def lines(self, source: Path, unit: Unit, parts: Parts) -> Iterator[dict[str, Any]]:
        """The journal's line of each slice of `unit` that was not done, as soon as its part is written."""
        for piece in sources.slices(source, unit):
            if (unit.number, piece.number) not in parts.done:
                yield parts.write(unit.number, piece.number, self._columns(piece), last=piece.last)

    def _columns(self, piece: Slice) -> Outputs:
        """The answers to a slice, one row each."""
        count = len(piece.names)
        errors, outputs = [piece.error] * count, Outputs()
        if not piece.error:
            starts = range(0, count, self._size)
            prepared = _ahead(self._pool, self._prepare, [piece.take(at, at + self._size) for at in starts])
            answered = [self._answer(one) for one in prepared]
            errors = list(itertools.chain.from_iterable(batch_errors for batch_errors, _ in answered))
            outputs = _filled([rows for _, rows in answered], np.array([not error for error in errors]))
        columns = {"input": np.array(piece.names), "row": np.array(piece.rows, dtype=np.int64), "error": np.array(errors, dtype=str)}
        return {**columns, **self._classes(outputs, count), **{_free(name, columns): array for name, array in outputs.items()}}

    def _prepare(self, inputs: Mapping[str, Any]) -> tuple[list[str], Outputs | None]:
        """The tensors of those samples that can be read, and for each sample why not."""
        count = len(next(iter(inputs.values())))
        try:
            return [""] * count, self._bundle.prepare(inputs)
        except HastenError:
            return self._one_by_one(inputs, count)

    def _one_by_one(self, inputs: Mapping[str, Any], count: int) -> tuple[list[str], Outputs | None]:
        errors, good = [], []
        for k in range(count):
            try:
                good.append(self._bundle.prepare({name: values[k : k + 1] for name, values in inputs.items()}))
                errors.append("")
            except HastenError as error:
                errors.append(str(error))
        return errors, {name: np.concatenate([one[name] for one in good]) for name in good[0]} if good else None

    def _answer(self, prepared: tuple[list[str], Outputs | None]) -> tuple[list[str], Outputs | None]:
        errors, tensors = prepared
        return errors, None if tensors is None else self._bundle.run(tensors)

    def _classes(self, outputs: Outputs, count: int) -> Outputs:
        if not self._bundle.manifest.classifier or not outputs:
            return {}
        judged = np.nan_to_num(outputs[self._bundle.manifest.output])
        best = [guesses[0] for guesses in self._bundle.guesses({self._bundle.manifest.output: judged}, top=1)]
        return {
            "label": np.array([guess.label for guess in best]), "index": np.array([guess.index for guess in best]),
            "score": np.array([guess.score for guess in best]),
        }  # fmt: skip


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Mapping[str, Any]], tuple[list[str], Outputs | None]], items: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[list[str], Outputs | None]]:
    """`function` of each item, in order, a bounded number of them computed before they are asked for."""
    waiting: deque[Future[tuple[list[str], Outputs | None]]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 2 * usable_cores():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _filled(batches: Sequence[Outputs | None], well: np.ndarray) -> Outputs:
    """The outputs of all rows, [rows, ...]: NaN, or 0 where there is none, for those that are not well."""
    some = [batch for batch in batches if batch is not None]
    filled = {}
    for name in some[0] if some else ():
        answered = np.concatenate([batch[name] for batch in some])
        missing = np.nan if answered.dtype.kind == "f" else 0
        filled[name] = np.full((len(well), *answered.shape[1:]), missing, dtype=answered.dtype)
        filled[name][well] = answered
    return filled


def _free(name: str, columns: Mapping[str, Any]) -> str:
    """The column of the output `name`, which may be called as one of ours is."""
    return f"output:{name}" if name in columns or name in ("label", "index", "score") else name


def _best_batch(bundle: Bundle) -> int:
    """Samples a call that gave the most of them per second when the bundle was measured."""
    answer = (bundle.answer.get("answer") or {}).get("id")
    known = (line.get("best_batch") for line in bundle.evidence if line["kind"] == "trial" and line.get("id") == answer)
    return next((int(size) for size in known if size), _BATCH)


def _progress(parts: Parts, units: Sequence[Unit]) -> Progress:
    done = sum(parts.finished(unit.number) for unit in units)
    return Progress(done=done, units=len(units), rows=sum(line["rows"] for line in parts.done.values()))


def _digest(source: Path, files: Sequence[Path]) -> str:
    """Of the inputs' names, sizes and times."""
    root = sources.root_of(source)
    return digest_json([[path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files])
