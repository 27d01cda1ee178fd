"""Who answers slices: this process, or (nodes_ray.py) the nodes of a cluster. Who writes is neither of them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..bundle.read import Bundle
from ..core.errors import HastenError
from .sources import Slice

Outputs = dict[str, np.ndarray]
_Prepared = tuple[list[str], Outputs | None]
"""For each sample why it cannot be read, empty where it can; and the tensors of those that can."""

_BATCH = 32  # samples a call, where no throughput was measured


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A slice's answers. unit, number, last: as of the slice; columns: what a part holds, one row a sample."""

    unit: int
    number: int
    last: bool
    columns: Outputs


class Answerer(ABC):
    """Closed by `with`."""

    @abstractmethod
    def answers(self, pieces: Iterator[Slice]) -> Iterator[Answered]:
        """Each slice's answers once, in any order. Slices are asked for as they are needed. Raises HastenError."""

    @property
    @abstractmethod
    def num_nodes(self) -> int:
        """Machines that have answered something."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Worker(Answerer):
    """Answers with one bundle, here: pictures are decoded by as many threads as it has cores, while the program computes."""

    def __init__(self, bundle: Path, cores: int) -> None:
        self._cores = cores
        self._exit = ExitStack()
        self._bundle = self._exit.enter_context(Bundle.open(bundle)).load()
        self._pool = self._exit.enter_context(ThreadPoolExecutor(cores, thread_name_prefix="hasten-prepare"))
        self._size = _best_batch(self._bundle)

    @property
    def num_nodes(self) -> int:
        return 1

    def answers(self, pieces: Iterator[Slice]) -> Iterator[Answered]:
        return map(self.answer, pieces)

    def answer(self, piece: Slice) -> Answered:
        """One slice's answers: a function of the slice and the bundle alone."""
        return Answered(unit=piece.unit, number=piece.number, last=piece.last, columns=self._columns(piece))

    def close(self) -> None:
        self._exit.close()

    def _columns(self, piece: Slice) -> Outputs:
        """The answers to a slice, one row each."""
        count = len(piece.names)
        errors, outputs = [piece.error] * count, Outputs()
        if not piece.error:
            starts = range(0, count, self._size)
            prepared = self._ahead([piece.take(at, at + self._size) for at in starts])
            answered = [self._answer(one) for one in prepared]
            errors = list(itertools.chain.from_iterable(batch_errors for batch_errors, _ in answered))
            outputs = _filled([rows for _, rows in answered], np.array([not error for error in errors]))
        columns = {"input": np.array(piece.names), "row": np.array(piece.rows, dtype=np.int64), "error": np.array(errors, dtype=str)}
        return {**columns, **self._classes(outputs, count), **{_free(name, columns): array for name, array in outputs.items()}}

    def _ahead(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[_Prepared]:
        """Each batch prepared, in order, a bounded number of them before they are asked for."""
        waiting: deque[Future[_Prepared]] = deque()
        for batch in batches:
            waiting.append(self._pool.submit(self._prepare, batch))
            if len(waiting) > 2 * self._cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _prepare(self, inputs: Mapping[str, Any]) -> _Prepared:
        """The tensors of those samples that can be read, and for each sample why not."""
        count = len(next(iter(inputs.values())))
        try:
            return [""] * count, self._bundle.prepare(inputs)
        except HastenError:
            return self._one_by_one(inputs, count)

    def _one_by_one(self, inputs: Mapping[str, Any], count: int) -> _Prepared:
        errors, good = [], []
        for k in range(count):
            try:
                good.append(self._bundle.prepare({name: values[k : k + 1] for name, values in inputs.items()}))
                errors.append("")
            except HastenError as error:
                errors.append(str(error))
        return errors, {name: np.concatenate([one[name] for one in good]) for name in good[0]} if good else None

    def _answer(self, prepared: _Prepared) -> _Prepared:
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
