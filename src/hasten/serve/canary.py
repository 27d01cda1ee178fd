"""A new version on probation: it gets some of the requests until it is surely worse than what else answers.

Three sequential tests run side by side, each with a third of ALPHA, so that a canary that is no worse is ever rolled back with
probability at most ALPHA, however long it stays and however often one looks (anytime.py):

    failures   its share of requests that failed or were refused is above the others' by more than MARGIN
    latency    its answers take more than SLOWER times as long as the others': of pairs of answers of nearly the same moment, more than
               half do. Pairs are at least PAIR_SECONDS apart, so that one stall of the machine is one pair and not a hundred
    quality    its share of wrong answers, by the labels that came back, is above the others' by more than MARGIN_WRONG
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .anytime import Tally, surely_above, surely_above_half

ALPHA = 0.05
MARGIN = 0.001
MARGIN_WRONG = 0.005
SLOWER = 1.25
PAIR_SECONDS = 0.5
_FRESH_SECONDS = 5.0  # two answers that lie farther apart are no pair


@dataclass(kw_only=True)
class Canary:
    """What was seen of the canary and of the others. Methods give the reason for a roll-back, once, else nothing."""

    alpha: float = ALPHA
    failed: dict[bool, Tally] = field(default_factory=lambda: {True: Tally(), False: Tally()})  # by whether it was the canary
    wrong: dict[bool, Tally] = field(default_factory=lambda: {True: Tally(), False: Tally()})
    slower: Tally = field(default_factory=Tally)
    rolled_back: str = ""
    _last: dict[bool, tuple[float, float]] = field(default_factory=dict)  # when, and seconds
    _paired: float = -PAIR_SECONDS

    def ended(self, *, canary: bool, failed: bool) -> str:
        """A request was answered, or failed or was refused."""
        self.failed[canary] = self.failed[canary].plus(failed)
        if canary and failed and surely_above(self.failed[False], self.failed[True], MARGIN, alpha=self.alpha / 3):
            return self._roll_back(f"failures: {self.failed[True].rate:.2%} of its requests, {self.failed[False].rate:.2%} of the others'")
        return ""

    def took(self, *, canary: bool, seconds: float, now: float) -> str:
        """An answer took so long."""
        self._last[canary] = (now, seconds)
        other = self._last.get(not canary)
        if other is None or now - other[0] > _FRESH_SECONDS or now - self._paired < PAIR_SECONDS:
            return ""
        self._paired = now
        mine, theirs = (seconds, other[1]) if canary else (other[1], seconds)
        self._last.clear()  # each answer is in one pair at most
        self.slower = self.slower.plus(mine > SLOWER * theirs)
        if surely_above_half(self.slower, alpha=self.alpha / 3):
            told = f"{self.slower.rate:.0%} of {self.slower.n} answers took over {SLOWER:g} times as long as the others'"
            return self._roll_back(f"latency: {told}")
        return ""

    def labelled(self, *, canary: bool, correct: bool) -> str:
        """Somebody said whether an answer was right."""
        self.wrong[canary] = self.wrong[canary].plus(not correct)
        if surely_above(self.wrong[False], self.wrong[True], MARGIN_WRONG, alpha=self.alpha / 3):
            told = f"{self.wrong[True].rate:.1%} of its answers wrong, {self.wrong[False].rate:.1%} of the others'"
            return self._roll_back(f"quality: {told}")
        return ""

    def document(self) -> dict[str, Any]:
        """For people and programs."""

        def arm(canary: bool) -> dict[str, Any]:
            failed, wrong = self.failed[canary], self.wrong[canary]
            return {"requests": failed.n, "failed": failed.successes, "labelled": wrong.n, "wrong": wrong.successes}

        pairs = {"pairs": self.slower.n, "slower": self.slower.successes, "factor": SLOWER}
        return {"canary": arm(True), "others": arm(False), "latency": pairs, "alpha": self.alpha, "rolled_back": self.rolled_back or None}

    def _roll_back(self, reason: str) -> str:
        """reason: its cause, a colon, and the numbers."""
        if self.rolled_back:
            return ""
        self.rolled_back = reason
        return reason
