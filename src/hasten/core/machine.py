"""The machine that measures: what it is, what it can, and how busy it is."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .digest import digest_json

_TELLING_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
                  "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "fphp")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a measurement's key holds. memory_bytes: RAM; cores: usable logical cores; flags: instruction sets."""

    cpu: str
    arch: str
    system: str
    cores: int
    memory_bytes: int
    flags: tuple[str, ...]

    @property
    def id(self) -> str:
        return digest_json(asdict(self))[:12]

    @property
    def text(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB, {' '.join(self.flags) or self.arch}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flags": list(self.flags), "id": self.id, "text": self.text}


@functools.cache
def this_machine() -> Machine:
    """The machine that runs this process."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        arch=platform.machine(),
        system=platform.system(),
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        flags=tuple(f for f in _TELLING_FLAGS if f in flags),
    )


def usable_cores() -> int:
    """Logical cores that this process may run on (affinity and cgroup masks count)."""
    return len(core_numbers())


def core_numbers() -> list[int]:
    """Which those are, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def load_average() -> float | None:
    """Processes that want a core, averaged over one minute; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, by distribution name; a missing one is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
