"""The record of one search: where the time went, what was decided and why, and every trial."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.trial import Trial
from .observer import Observer


@dataclass
class Decision:
    """What was done, when (seconds of the budget) and why; forecast and outcome of steps that were chosen by what they promise; tried: what
    a technique tried inside."""

    seconds: float
    what: str
    why: str
    learnt: str = ""
    forecast: Mapping[str, float] | None = None
    outcome: Mapping[str, float | None] | None = None
    tried: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"forecast": self.forecast, "outcome": self.outcome} if self.forecast is not None else {}
        told |= {"tried": list(self.tried)} if self.tried else {}
        return {"seconds": round(self.seconds, 3), "what": self.what, "why": self.why, "learnt": self.learnt, **told}


class Study:
    """Grows while the search runs. budget_seconds: what the user allowed.

    Steps that the store held already count with the seconds that they took (`credit`): a search means the same whether it runs in one
    go, goes on after a kill, or is repeated, and its budget is spent on the same steps. Training has a purse of its own, `train_left`.
    """

    def __init__(self, budget_seconds: float, observer: Observer, train_seconds: float = 0.0) -> None:
        self.budget_seconds, self.train_left = budget_seconds, train_seconds
        self.observer = observer
        self.trials: dict[str, Trial] = {}
        self.decisions: list[Decision] = []
        self.credited = 0.0
        self.account: dict[str, float] = {}
        self.busiest = 0.0
        self.slowdown = 1.0
        self._began = time.perf_counter()
        self.started = datetime.datetime.now(datetime.UTC)
        self._open: list[str] = []
        self._mark = self._began

    @property
    def elapsed(self) -> float:
        """Seconds that the search has used, those of steps from the store included."""
        return time.perf_counter() - self._began + self.credited

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

    def credit(self, seconds: float) -> None:
        """A step came from the store: its seconds are spent."""
        self.credited += seconds

    def trained(self, seconds: float) -> None:
        """So much went into training: it is taken from its own purse, not from the search's budget."""
        self.train_left -= seconds
        self.credited -= seconds

    def closed_account(self) -> dict[str, float]:
        """Seconds of this process by purpose; `other` is all that no purpose claimed."""
        self._book()
        return {name: round(seconds, 3) for name, seconds in sorted(self.account.items(), key=lambda item: -item[1])}

    def stage(self, name: str, why: str) -> None:
        self.observer.stage(name, why)

    def decide(self, what: str, why: str, forecast: Mapping[str, float] | None = None) -> Decision:
        """Note what is tried now and why."""
        decision = Decision(self.elapsed, what, why, forecast=forecast)
        self.decisions.append(decision)
        self.observer.trying(what, why)
        return decision

    def learn(self, sentence: str, tried: Sequence[Mapping[str, Any]] = ()) -> None:
        """Note what the last decision taught, and what was tried inside it."""
        if self.decisions:
            last = self.decisions[-1]
            last.tried = (*last.tried, *tried)
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
