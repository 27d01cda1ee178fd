"""Starts the server of a bundle here, as often as asked, and looks: how long until it is ready, and how much memory it took."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..core.errors import NotPossibleHere


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start. seconds: until it took connections, warm-up included; peak_bytes: resident until then."""

    seconds: float
    peak_bytes: int


def starts(bundle: Path, *, slo: str | None = None, count: int = 3) -> list[Start]:
    """`count` starts of `hasten serve`, one after the other, each ended again. Raises NotPossibleHere with the server's own words."""
    return [_start(bundle, slo) for _ in range(count)]


def _start(bundle: Path, slo: str | None) -> Start:
    command = [sys.executable, "-m", "hasten", "serve", str(bundle), "--port", "0", *_objective(slo)]
    with tempfile.TemporaryFile("w+") as words:
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True) as child:
            assert child.stdout is not None
            try:
                announced = child.stdout.readline()
                seconds = time.perf_counter() - began
                if not announced.startswith("http://"):
                    child.wait()
                    words.seek(0)
                    raise NotPossibleHere("bundle", f"does not serve here ({' '.join(words.read().split())[-300:]})")
                return Start(seconds=seconds, peak_bytes=_peak(child.pid))
            finally:
                child.terminate()


def _objective(slo: str | None) -> Sequence[str]:
    return () if slo is None else ("--slo", slo)


def _peak(pid: int) -> int:
    """The most memory that was resident, bytes; what is resident now where the system does not remember."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else int(psutil.Process(pid).memory_info().rss)
