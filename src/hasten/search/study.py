"""The record of one search: where the time went, what was decided and why, and every trial."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..core.trial import Trial
from .observer import Observer


@dataclass
class _Decision:
    seconds: float
    what: str
    why: str
    learnt: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"seconds": round(self.seconds, 3), "what": self.what, "why": self.why, "learnt": self.learnt}


class Study:
    """Grows while the search runs. budget_seconds: what the user allowed."""

    def __init__(self, budget_seconds: float, observer: Observer) -> None:
        self.budget_seconds = budget_seconds
        self.observer = observer
        self.trials: dict[str, Trial] = {}
        self.decisions: list[_Decision] = []
        self.account: dict[str, float] = {}
        self.busiest = 0.0
        self._began = time.perf_counter()
        self._open: list[str] = []
        self._mark = self._began

    @property
    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; negative when it is overdrawn."""
        return self.budget_seconds - self.elapsed

    @contextlib.contextmanager
    def spending(self, on: str) -> Iterator[None]:
        """Time in here goes to the account `on`, less what inner accounts take."""
        self._book()
        self._open.append(on)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def closed_account(self) -> dict[str, float]:
        """Seconds by purpose; `other` is all that no purpose claimed. They add up to the elapsed time."""
        self._book()
        return {name: round(seconds, 3) for name, seconds in sorted(self.account.items(), key=lambda item: -item[1])}

    def stage(self, name: str, why: str) -> None:
        self.observer.stage(name, why)

    def decide(self, what: str, why: str) -> None:
        """Note what is tried now and why."""
        self.decisions.append(_Decision(self.elapsed, what, why))
        self.observer.trying(what, why)

    def learn(self, sentence: str) -> None:
        """Note what the last decision taught."""
        if self.decisions:
            last = self.decisions[-1]
            last.learnt = f"{last.learnt} {sentence}".strip()
        self.observer.learnt(sentence)

    def keep(self, trial: Trial) -> Trial:
        """Remember a trial, or what is newly known of it."""
        self.trials[trial.id] = trial
        return trial

    def _book(self) -> None:
        now = time.perf_counter()
        name = self._open[-1] if self._open else "other"
        self.account[name] = self.account.get(name, 0.0) + now - self._mark
        self._mark = now
