"""What a search hands back: the one answer, and the candidates that no other one dominates."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import JobError, LimitsNotMet
from ..core.trial import Fate, Trial


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The program that a search chose. trial: what was measured; bundle: the folder that ships."""

    trial: Trial
    bundle: Path

    def save(self, path: str | Path) -> Path:
        """A copy of the bundle at `path`, which must not exist or be empty. Raises JobError."""
        target = Path(path)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise JobError("out", "must be a new or empty folder", got=str(target))
        shutil.copytree(self.bundle, target, dirs_exist_ok=True)
        return target


@dataclass(frozen=True, kw_only=True)
class Front:
    """trials: all that were tried; document: what `hasten optimize --json` prints; bundle: the folder of the answer."""

    trials: tuple[Trial, ...]
    document: Mapping[str, Any]
    answer: Answer | None

    @property
    def best(self) -> Answer:
        """The answer. Raises LimitsNotMet where nothing keeps the limits."""
        if self.answer is None:
            raise LimitsNotMet("limits", str(self.document["reason"]))
        return self.answer

    @property
    def members(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in both speed and quality, beyond the noise; fastest first."""
        return tuple(undominated(self.trials))


def undominated(trials: Sequence[Trial]) -> list[Trial]:
    """Those for which no other trial is surely faster and at least as good (or as fast and surely better)."""
    alive = [t for t in trials if t.fate is not Fate.FAILED and t.latest("latency") is not None]
    members = [t for t in alive if not any(_dominates(other, t) for other in alive if other.id != t.id)]
    return sorted(members, key=_latency)


def _dominates(a: Trial, b: Trial) -> bool:
    fast_a, fast_b = a.latest("latency"), b.latest("latency")
    if fast_a is None or fast_b is None:
        return False
    loss_a, loss_b = _loss(a), _loss(b)
    if loss_a is None or loss_b is None:
        return loss_b is None and loss_a is not None and fast_a.interval().high < fast_b.interval().low
    return loss_a <= loss_b and fast_a.interval().high < fast_b.interval().low


def _loss(trial: Trial) -> float | None:
    if trial.candidate.lossless:
        return 0.0
    drop = (trial.verdict.drop if trial.verdict else None) or trial.drop
    return None if drop is None else max(0.0, drop.value)


def _latency(trial: Trial) -> float:
    measurement = trial.latest("latency")
    return measurement.interval().value if measurement else float("inf")
