"""Reading and writing quantities: durations, sizes, intervals. SI inside; these forms only at the edge."""

from __future__ import annotations

import math
import re

from .errors import JobError

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}


def parse_duration(text: str | float | int, *, field: str = "duration") -> float:
    """Seconds from `"5m"`, `"90s"`, `"1h30m"`, `"30d"`, `"250ms"` or a plain number of seconds. Raises JobError."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text)
    else:
        compact = str(text).strip().lower().replace(" ", "")
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", compact)
        if re.fullmatch(r"\d+(\.\d+)?", compact):
            seconds = float(compact)
        elif parts and "".join(n + u for n, u in parts) == compact:
            seconds = sum(float(n) * _SECONDS[u] for n, u in parts)
        else:
            raise JobError(field, "must be a duration", got=text, hint="Write it like 90s, 5m or 1h30m")
    if not math.isfinite(seconds):
        raise JobError(field, "must be a duration", got=text, hint="Write it like 90s, 5m or 1h30m")
    if not seconds > 0:
        raise JobError(field, "must be longer than zero", got=text, hint="Write it like 90s, 5m or 1h30m")
    return seconds


def parse_size(text: str | float | int, *, field: str = "size") -> float:
    """Bytes from `"5GB"`, `"200 MB"`, `"1.5 GiB"` or a plain number of bytes. Raises JobError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?i?b)?", str(text).strip().lower().replace(" ", ""))
    unit = _BYTES.get((found[2] or "b") if found else "")
    if found is None or unit is None:
        raise JobError(field, "must be a size", got=text, hint="Write it like 200MB, 5GB or 1.5GiB")
    return float(found[1]) * unit


def format_seconds(seconds: float) -> str:
    """A duration for people: `1.23 ms`, `42 µs`, `3 min 05 s`."""
    if seconds < 0:
        return "-" + format_seconds(-seconds)
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns" if seconds else "0 s"


def format_joules(joules: float) -> str:
    """An energy for people: `3.2 mJ`."""
    for unit, size in (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6)):
        if joules >= size:
            return f"{joules / size:.3g} {unit}"
    return f"{joules / 1e-6:.3g} µJ"


def format_bytes(size: float) -> str:
    """A size for people, in powers of ten: `4.65 MB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"
