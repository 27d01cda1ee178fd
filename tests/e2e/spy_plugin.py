"""For test_workers.py: a technique and a runtime that write down where they work, and kill what holds them, each once."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hasten.core.candidate import Candidate, Floor
from hasten.core.seams import Arrays, Context, Forecast, Profile, Program, Runtime, Target, Technique, option
from hasten.runtimes.onnxruntime import OnnxRuntime

_MANY_CALLS = 500  # more than there are samples: reached only in a race


def _note(name: str) -> None:
    with (Path(os.environ["HASTEN_SPY"]) / name).open("a") as file:
        file.write(Path(os.environ["HASTEN_STORE"]).name + "\n")


def _kill_holder(name: str) -> None:
    """End the process that started this one, which then dies too; the second time do nothing."""
    try:
        (Path(os.environ["HASTEN_SPY"]) / name).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


@dataclass(frozen=True, kw_only=True)
class Spied(Technique):
    """The same graph again."""

    name: ClassVar[str] = "spied"
    forbids: ClassVar[frozenset[str]] = frozenset({"spied"})
    adds: ClassVar[frozenset[str]] = frozenset({"spied"})

    number: int = option(1, "Which copy.", choices=(1, 2, 3))

    def fits(self, candidate: Candidate | None, profile: Profile) -> str | None:
        return None

    def expects(self, profile: Profile) -> Forecast:
        return Forecast(speedup=1.5, seconds=1.0)

    def apply(self, candidate: Candidate, context: Context) -> Candidate:
        _note("built")
        _kill_holder("build-killed")
        path = context.folder / "model.onnx"
        shutil.copy(candidate.path, path)
        return candidate.then(self.step(), path, adds=self.adds, lossless=False)


@dataclass(frozen=True, kw_only=True)
class SpiedRuntime(Runtime):
    """ONNX Runtime."""

    name: ClassVar[str] = "spied"
    floor: ClassVar[Floor] = Floor.GRAPH

    threads: int = option(0, "Threads. 0: the target's.", choices=(0,), low=0)

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        return None

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        _note("ran")
        OnnxRuntime().compile(candidate, target, folder)

    def load(self, folder: Path, target: Target) -> Program:
        _note("ran")
        return _Spied(OnnxRuntime().load(folder, target))


class _Spied(Program):
    def __init__(self, program: Program) -> None:
        self._program, self._calls = program, 0

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        self._calls += 1
        if self._calls == _MANY_CALLS:
            _kill_holder("race-killed")
        return self._program.run(inputs)
