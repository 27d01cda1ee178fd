"""From a bundle and what was asked to what it needs where it is served."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..bundle.layout import MANIFEST
from ..bundle.read import Bundle
from ..core.digest import digest_path
from ..core.seams import ServingNeeds
from ..core.units import format_bytes, format_seconds, parse_duration
from ._measure import Start
from ._requirements import pinned

_HEADROOM = 1.25  # over the peak that was seen: allocators on another kernel, and requests in flight beside the bodies that are counted
_WAIT_SHARE = 0.25  # of the objective: the server refuses what cannot be in time, so the delay itself never grows far past it
_WAIT_CALLS = 4.0  # calls of the program, where there is no objective
_LEAST_WAIT = 0.01


def plan(
    bundle: Bundle,
    *,
    image: str | None,
    slo: str | None,
    replicas: tuple[int, int],
    startup_seconds: float | None,
    memory_bytes: int | None,
    measured: Sequence[Start],
    held_bytes: int,
) -> ServingNeeds:
    """What `bundle` needs.

    startup_seconds, memory_bytes: as the user said, or None: then from `measured`; held_bytes: of requests that the server may hold.
    """
    manifest, reasons = bundle.manifest, {}
    if startup_seconds is None:
        startup_seconds = max(start.seconds for start in measured)
        reasons["startup_seconds"] = f"Start-up took {format_seconds(startup_seconds)}, the longest of {len(measured)} starts here."
    if memory_bytes is None:
        peak = max(start.peak_bytes for start in measured)
        memory_bytes = math.ceil(peak * _HEADROOM) + held_bytes
        reasons["memory_bytes"] = (
            f"Memory is {_HEADROOM:g} times the {format_bytes(peak)} that were resident at most during {len(measured)} starts and warm-ups "
            f"here, and {format_bytes(held_bytes)} of requests that the server may hold."
        )
    threads = manifest.target.threads
    reasons["threads"] = f"The program was certified with {threads} thread{'s' if threads > 1 else ''}."
    wait, reasons["wait_seconds"] = _wait(bundle, slo)
    digest = digest_path(bundle.path / MANIFEST)[:12]
    name = _label(bundle.name)
    recorded = {**manifest.versions, **manifest.runtime.versions}
    return ServingNeeds(
        name=name,
        model=bundle.name,
        digest=digest,
        image=image or f"{name}:{digest}",
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        arch=str(manifest.machine.get("arch") or ""),
        requirements=pinned(["hasten[serve]", *bundle.runtime.packages], recorded),
        threads=threads,
        memory_bytes=memory_bytes,
        startup_seconds=startup_seconds,
        wait_seconds=wait,
        slo=slo,
        replicas=replicas,
        reasons=reasons,
    )


def copied(bundle: Bundle) -> list[tuple[Path, str]]:
    """The files of `bundle` to copy, each checked against its sha256, with their names. Raises BundleError."""
    bundle.check_program()
    return [(bundle.path / MANIFEST, MANIFEST), *((bundle.file(name), name) for name in bundle.manifest.files)]


def _wait(bundle: Bundle, slo: str | None) -> tuple[float, str]:
    if slo is not None:
        wait = _WAIT_SHARE * parse_duration(slo, field="--slo")
        return wait, f"Another replica comes when requests wait longer than {format_seconds(wait)}, a quarter of the objective."
    latency = ((bundle.answer.get("answer") or {}).get("latency_seconds") or {}).get("value") or 0.0
    wait = max(_WAIT_CALLS * latency, _LEAST_WAIT)
    return wait, (
        f"Another replica comes when requests wait longer than {format_seconds(wait)}: four calls of the program, at least 10 ms. "
        "An objective (--slo) would say it better."
    )


def _label(name: str) -> str:
    """`name` as DNS takes it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-") or "model"
