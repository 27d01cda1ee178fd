"""Is the machine busy with something else?"""

from __future__ import annotations

import time
from typing import ClassVar

from ..core.machine import load_average, usable_cores
from ..core.seams import Check, Finding, Target

_SPIN_SECONDS = 0.1
_IDLE_SHARE = 0.9  # of the wall time that a lone spinning thread gets as CPU time on a quiet machine


class Load(Check):
    """Spins for a tenth of a second and looks how much of it the processor gave; then asks the system's load average."""

    name: ClassVar[str] = "load"

    def ask(self, target: Target) -> Finding:
        share, average, cores = _share(), load_average(), usable_cores()
        if share < _IDLE_SHARE:
            return _busy(f"a lone thread got {share:.0%} of a core")
        if average is not None and average > 0.5 * cores:
            return _busy(f"{average:.1f} processes want its {cores} cores (average of a minute)")
        return Finding(sentence="The machine is quiet.")


def _share() -> float:
    began, cpu_began = time.perf_counter(), time.process_time()
    while (wall := time.perf_counter() - began) < _SPIN_SECONDS:
        pass
    return (time.process_time() - cpu_began) / wall


def _busy(why: str) -> Finding:
    return Finding(sentence=f"The machine is busy: {why}. Timings will be wide.", facts=frozenset({"busy"}))
