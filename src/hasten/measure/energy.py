"""Energy: joules of a call, from the machine's own counters, else an estimate that says so, else unknown.

Counters: RAPL of Intel and AMD processors through Linux powercap (Documentation/power/powercap/powercap.rst; Intel SDM, volume 3B,
"Power and thermal management"), and NVML's total energy of a GPU. An estimate is CPU time times watts that the user states: what it
leaves out (memory, idle cores, clock frequency) is why it is never called a measurement.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ..core.errors import HastenError
from ..core.measurement import Measurement
from ..core.need import need

POWERCAP = Path("/sys/class/powercap")

Label = Literal["measured", "estimated", "unknown"]


class Meter(ABC):
    """Counters of energy. least_seconds: what is read over less time than this is mostly the steps in which they count."""

    least_seconds: ClassVar[float]

    @property
    @abstractmethod
    def text(self) -> str:
        """What it counts, for people."""

    @abstractmethod
    def read(self) -> tuple[float, ...]:
        """Joules by counter, from where each began to count. Raises OSError."""

    @abstractmethod
    def spent(self, before: Sequence[float], after: Sequence[float]) -> float:
        """Joules between two readings, all counters together."""


@dataclass(frozen=True, kw_only=True)
class Zone:
    """One RAPL counter. path: its energy_uj; range_joules: where it starts again from 0."""

    name: str
    path: Path
    range_joules: float


@dataclass(frozen=True, kw_only=True)
class Rapl(Meter):
    """Whole processor packages, and their memory where it is counted: idle power and other processes are in it."""

    least_seconds: ClassVar[float] = 0.02  # they count every millisecond

    zones: tuple[Zone, ...]

    @property
    def text(self) -> str:
        names = ", ".join(zone.name for zone in self.zones)
        return f"RAPL counters ({names}) around each timed slice: the whole package, idle power and other processes included"

    def read(self) -> tuple[float, ...]:
        return tuple(int(zone.path.read_text()) / 1e6 for zone in self.zones)

    def spent(self, before: Sequence[float], after: Sequence[float]) -> float:
        grown = (b - a if b >= a else b - a + z.range_joules for a, b, z in zip(before, after, self.zones, strict=True))
        return sum(grown)


@dataclass(frozen=True, kw_only=True)
class Nvml(Meter):
    """One GPU, by number; the processor that feeds it is not in it."""

    least_seconds: ClassVar[float] = 1.0  # it counts about every tenth of a second

    index: int = 0

    @property
    def text(self) -> str:
        return f"NVML's total energy of GPU {self.index} around each timed slice: the whole board, idle power included"

    def read(self) -> tuple[float, ...]:
        nvml, handle = _gpu(self.index)
        return (nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,)

    def spent(self, before: Sequence[float], after: Sequence[float]) -> float:
        return after[0] - before[0]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where joules come from. how: one sentence; meter: where they are measured; watts_per_core: what an estimate is made with."""

    label: Label
    how: str
    meter: Meter | None = None
    watts_per_core: float | None = None

    def to_json(self) -> dict[str, str]:
        return {"label": self.label, "how": self.how}


UNKNOWN = Source(label="unknown", how="it was not asked for")


def find_source(device: str, watts_per_core: float | None, *, powercap: Path = POWERCAP) -> Source:
    """How the energy of a call on `device` (`cpu`, `cuda`, `cuda:1`) can be known here.

    watts_per_core: for an estimate where nothing can be measured (None: then it is unknown); powercap: the kernel's folder.
    """
    gpu = device.startswith("cuda")
    meter = _find_gpu(int(device.partition(":")[2] or 0)) if gpu else _find_rapl(powercap)
    if isinstance(meter, Meter):
        return Source(label="measured", how=meter.text, meter=meter)
    if gpu or watts_per_core is None:
        return Source(label="unknown", how=meter)
    model = f"CPU seconds of a call x {watts_per_core:g} W a core (target.watts_per_core)"
    return Source(label="estimated", how=f"{model}, since {meter}", watts_per_core=watts_per_core)


def measured(joules: Sequence[float], source: str, method: Mapping[str, Any], where: Mapping[str, Any]) -> Measurement:
    """Energy of a call: the mean of each timed slice, one slice a round, [rounds]."""
    return Measurement(
        metric="energy", unit="J", samples=tuple(joules), groups=tuple(range(len(joules))),
        method={**method, "label": "measured", "how": source}, where=where,
    )  # fmt: skip


def estimated(latency: Measurement, source: Source) -> Measurement:
    """Energy of a call from the CPU time that it took where it was timed, one value a round."""
    assert source.watts_per_core is not None
    rounds, cpu = np.asarray(latency.groups), np.asarray(latency.cpu_seconds)
    means = tuple(float(cpu[rounds == number].mean()) * source.watts_per_core for number in np.unique(rounds))
    return Measurement(
        metric="energy", unit="J", samples=means, groups=tuple(range(len(means))),
        method={**latency.method, "label": "estimated", "how": source.how}, where=latency.where,
    )  # fmt: skip


def _find_rapl(powercap: Path) -> Rapl | str:
    """The counters of all packages, or why there are none."""
    zones: dict[str, Zone] = {}
    # The same package may be there twice, by machine registers and by memory (mmio): the first is the finer one.
    for folder in sorted(powercap.glob("intel-rapl*:*"), key=lambda folder: ("mmio" in folder.name, folder.name)):
        name = _zone_name(folder)
        if name is not None and name not in zones:
            try:
                limit = int((folder / "max_energy_range_uj").read_text()) / 1e6
                zone = Zone(name=name, path=folder / "energy_uj", range_joules=limit)
                Rapl(zones=(zone,)).read()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                return f"the RAPL counter {folder / 'energy_uj'} cannot be read ({reason})"
            zones[name] = zone
    return Rapl(zones=tuple(zones.values())) if zones else f"there are no RAPL counters in {powercap}"


def _zone_name(folder: Path) -> str | None:
    """`package-0` or `package-0 dram`; None for parts that a package holds already, and for the whole platform."""
    try:
        name = (folder / "name").read_text().strip()
        if name.startswith("package"):
            return name
        package = (folder.parent / folder.name.rpartition(":")[0] / "name").read_text().strip()
    except OSError:
        return None
    return f"{package} dram" if name == "dram" else None


def _find_gpu(index: int) -> Nvml | str:
    try:
        Nvml(index=index).read()
    except HastenError as error:
        return str(error).rstrip(".")
    except Exception as error:  # noqa: BLE001 (NVML's errors are made at run time and share no base that can be named here)
        return f"NVML does not tell the energy of GPU {index} ({error})"
    return Nvml(index=index)


@functools.cache
def _gpu(index: int) -> tuple[Any, Any]:
    nvml = need("pynvml", why="to read a GPU's energy")
    nvml.nvmlInit()
    return nvml, nvml.nvmlDeviceGetHandleByIndex(index)
