"""What a classifier says of one sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One class that a picture may show. score: its probability, 0 to 1."""

    label: str
    index: int
    score: float
