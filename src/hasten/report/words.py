"""Numbers and sentences for people. A number shows the digits that its interval owns; bounds are rounded outward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.units import format_bytes, format_joules, format_seconds

NONE = "\N{EM DASH}"
"""What stands where nothing is known."""

MAX_DIGITS = 3
"""Significant digits, at most: no timing on a shared machine owns more, however narrow its interval."""

_SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
_JOULES = (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An estimate as text. value: with its unit, `1.46 ms`; low, high: the bounds without it, empty where unknown."""

    value: str
    low: str = ""
    high: str = ""

    @property
    def range(self) -> str:
        """`1.44 to 1.49`, or nothing."""
        return f"{self.low} to {self.high}" if self.low and self.high else ""

    @property
    def text(self) -> str:
        """`1.46 ms (1.44 to 1.49)`."""
        return f"{self.value} ({self.range})" if self.range else self.value


def seconds(estimate: Mapping[str, Any] | None) -> Shown:
    """A duration: `{value, low, high}` in seconds."""
    return _scaled(estimate, _SECONDS, format_seconds)


def joules(estimate: Mapping[str, Any] | None) -> Shown:
    """An energy: `{value, low, high}` in joules."""
    return _scaled(estimate, _JOULES, format_joules)


def ratio(estimate: Mapping[str, Any] | None) -> Shown:
    """How many times: `1.72x`."""
    return _show(estimate, unit="x") or Shown(value=_plain(estimate, "x"))


def points(estimate: Mapping[str, Any] | None) -> Shown:
    """Points of quality, signed as they are: a drop of -0.03 is a gain."""
    return _show(estimate) or Shown(value=_plain(estimate, ""))


def rate(estimate: Mapping[str, Any] | None) -> Shown:
    """Samples a second, thousands marked."""
    return _show(estimate, unit="/s") or Shown(value=_plain(estimate, "/s"))


def size(count: float | None) -> str:
    """Bytes, or a dash."""
    return NONE if count is None else format_bytes(count)


def number(value: Any) -> str:
    """A plain number for people: thousands marked, four digits of a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def count(amount: int, noun: str) -> str:
    """`1 sample`, `6,000 samples`."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def listed(items: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def times(estimate: Mapping[str, Any]) -> str:
    """A speed ratio in words: `1.72x faster`, `1.3x slower`, or `as fast` where noise hides any difference."""
    low, value, high = (estimate.get(k) for k in ("low", "value", "high"))
    if (low if low is not None else value) > 1:  # type: ignore[operator]
        return f"{ratio(estimate).value} faster"
    if (high if high is not None else value) < 1:  # type: ignore[operator]
        flipped = {"value": 1 / value, "low": 1 / high if high else None, "high": 1 / low if low else None}  # type: ignore[operator]
        return f"{ratio(flipped).value} slower"
    return "as fast"


def decimals(half_width: float) -> int:
    """Digits after the point that an uncertainty of ± `half_width` leaves.

    The rule of the Particle Data Group (Review of Particle Physics, Introduction, 5.3): where the first digits of the
    uncertainty are 100 to 354 two of them are kept, otherwise one.
    """
    if not half_width > 0 or not math.isfinite(half_width):
        return 2
    exponent = math.floor(math.log10(half_width))
    two_digits = round(half_width / 10**exponent, 2) <= 3.54
    return min(6, max(0, (1 if two_digits else 0) - exponent))


def _scaled(estimate: Mapping[str, Any] | None, units: Sequence[tuple[str, float]], plain: Callable[[float], str]) -> Shown:
    """The estimate in the largest unit that it reaches."""
    if not _known(estimate):
        return Shown(value=NONE)
    value = float(estimate["value"])  # type: ignore[index]
    unit, size = next(((u, s) for u, s in units if abs(value) >= s), units[-1])
    return _show(estimate, scale=size, unit=f" {unit}") or Shown(value=plain(value))


def _show(estimate: Mapping[str, Any] | None, *, scale: float = 1.0, unit: str = "") -> Shown | None:
    """The estimate with the digits that its bounds own, or None where it has no bounds."""
    if not _known(estimate):
        return None
    value, low, high = (_finite(estimate.get(k)) for k in ("value", "low", "high"))  # type: ignore[union-attr]
    reach = [abs(bound - value) for bound in (low, high) if bound is not None]  # type: ignore[operator]
    if not reach or max(reach) == 0:
        return None
    half = max(reach) if len(reach) == 1 else (high - low) / 2  # type: ignore[operator]
    digits = decimals(half / scale)
    if value:
        digits = max(0, min(digits, MAX_DIGITS - 1 - math.floor(math.log10(abs(value) / scale))))
    return Shown(
        value=_fixed(value / scale, digits) + unit,  # type: ignore[operator]
        low="" if low is None else _outward(low / scale, digits, math.floor),
        high="" if high is None else _outward(high / scale, digits, math.ceil),
    )


def _outward(bound: float, digits: int, towards: Any) -> str:
    # Binary fractions such as 1.8 * 100 must not be pushed to the next digit.
    return _fixed(towards(round(bound * 10**digits, 6)) / 10**digits, digits)


def _fixed(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _plain(estimate: Mapping[str, Any] | None, unit: str) -> str:
    if not _known(estimate):
        return NONE
    value = float(estimate["value"])  # type: ignore[index]
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}") + unit


def _known(estimate: Mapping[str, Any] | None) -> bool:
    return bool(estimate) and _finite(estimate.get("value")) is not None  # type: ignore[union-attr]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
