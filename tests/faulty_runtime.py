"""A plug-in whose program doubles its input and does what the first number of a sample says: crash, fail, or wait for a signal."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hasten.core.candidate import Candidate, Floor
from hasten.core.seams import Arrays, Program, Runtime, Target, option

CRASH, FAIL = -1.0, -2.0
GATES = {-3.0: "HASTEN_TEST_GATE_3", -4.0: "HASTEN_TEST_GATE_4"}
"""Numbers of samples whose call lasts until the pipe that this variable names was opened for writing and closed again."""
CALL_SECONDS = 3e-3
"""A call takes it whatever its size, so that on any machine batches pay, and requests share calls."""


@dataclass(frozen=True, kw_only=True)
class Faulty(Runtime):
    """y = 2 x, and faults on demand."""

    name: ClassVar[str] = "faulty"
    floor: ClassVar[Floor] = Floor.GRAPH
    threads: int = option(0, "Threads; it uses none. 0: the target's.", choices=(0,), low=0)

    def fits(self, candidate: Candidate | None, target: Target) -> str | None:
        return None

    def compile(self, candidate: Candidate, target: Target, folder: Path) -> None:
        (folder / "factor").write_text("2")

    def load(self, folder: Path, target: Target) -> Program:
        return _Times(float((folder / "factor").read_text()))


class _Times(Program):
    def __init__(self, factor: float) -> None:
        self._factor = factor

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        time.sleep(CALL_SECONDS)
        for first in inputs["x"][:, 0].tolist():
            if first == CRASH:
                os.kill(os.getpid(), signal.SIGSEGV)
            if first == FAIL:
                raise ZeroDivisionError("on demand")
            if first in GATES:
                with open(os.environ[GATES[first]], "rb") as gate:
                    gate.read()
        return {"y": self._factor * inputs["x"]}
