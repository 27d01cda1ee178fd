"""Which call sizes a server uses: those that gave what was certified, on real samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import bundles
import numpy as np
import pytest

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.seams import Arrays, Program
from hasten.serve.warmup import MAX_BATCH, measure, warm_up

pytest.importorskip("onnx")


class Changed(Program):
    """A real program whose outputs are changed by the number of samples in a call. It keeps the sizes that it was called with."""

    def __init__(self, program: Program, change: Callable[[int, np.ndarray], np.ndarray]) -> None:
        self._program, self._change = program, change
        self.sizes: list[int] = []

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        size = len(next(iter(inputs.values())))
        self.sizes.append(size)
        return {name: self._change(size, array) for name, array in self._program.run(inputs).items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return write(bundles.picture_contents(folder), folder / "out")


def largest(path: Path, change: Callable[[int, np.ndarray], np.ndarray]) -> tuple[int, Changed]:
    """The largest size that the curve has where every call takes equally long, so that larger ones always pay."""
    ticks = itertools.count()
    with Bundle.open(path) as bundle:
        program = Changed(bundle.load()._program, change)
        bundle.__dict__["_program"] = program
        return warm_up(bundle, objective=10.0, clock=lambda: float(next(ticks))).largest, program


def test_all_sizes_are_used_where_calls_only_round_otherwise(path: Path) -> None:
    assert largest(path, lambda size, scores: scores * np.float32(1 + 1e-6 * size))[0] == MAX_BATCH


@pytest.mark.parametrize("good", [1, 2, 16, 32])
def test_no_size_is_used_from_the_first_that_gives_something_else(path: Path, good: int) -> None:
    found, program = largest(path, lambda size, scores: scores if size <= good else scores[:, ::-1].copy())
    assert found == good
    assert max(program.sizes) == 2 * good


def test_larger_calls_that_bring_nothing_are_tried_only_while_calls_are_short() -> None:
    """Between short calls something passes that counts; long ones would only make the start longer."""
    assert measure(lambda size: 0.0001 * size, objective=1.0).largest == MAX_BATCH
    assert measure(lambda size: 0.1 * size, objective=10.0).largest == 4
    assert measure(lambda size: 0.1 + 0.01 * size, objective=10.0).largest == MAX_BATCH


def test_one_sample_that_is_wrong_in_a_large_call_is_seen(path: Path) -> None:
    def last_is_another(size: int, scores: np.ndarray) -> np.ndarray:
        return np.concatenate([scores[:-1], scores[:1]]) if size == 4 else scores

    assert largest(path, last_is_another)[0] == 2
