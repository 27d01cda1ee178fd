"""Versions among which requests are split by chance, compared by the labels that come back, until there is a decision.

Each treatment is compared with the control, the oldest version, by the share of right answers. The interval of the difference holds at
every moment (anytime.py), so that the experiment may end as soon as it says enough: with any number of labels, a decision is wrong with
probability at most ALPHA, shared between the treatments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .anytime import Difference, Tally, difference, log_evidence

ALPHA = 0.05
ALIKE = 0.01
"""Rates of right answers that differ by less are alike: to tell them apart would take tens of thousands of labels."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How a comparison ended. It stays, whatever is seen afterwards."""

    word: Literal["better", "worse", "alike"]
    difference: Difference
    num_labels: int


@dataclass(kw_only=True)
class Experiment:
    """The comparisons of one model's versions. versions: the control first."""

    versions: Sequence[str]
    alpha: float = ALPHA
    tallies: dict[str, Tally] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)

    @property
    def level(self) -> float:
        """Of each interval."""
        return 1 - self.alpha / max(1, len(self.versions) - 1)

    def labelled(self, version: str, correct: bool) -> None:
        """Somebody said whether an answer of `version` was right."""
        self.tallies[version] = self.tally(version).plus(correct)
        control, *treatments = self.versions
        for treatment in treatments if version == control else [version]:
            if treatment not in self.decisions and (word := self._word(control, treatment)):
                seen = self.tally(control).n + self.tally(treatment).n
                self.decisions[treatment] = Decision(word=word, difference=self._difference(treatment), num_labels=seen)

    def tally(self, version: str) -> Tally:
        """Right answers (successes) and wrong ones."""
        return self.tallies.get(version, Tally())

    def document(self) -> dict[str, Any]:
        """For people and programs."""
        counts = {version: {"labelled": self.tally(version).n, "right": self.tally(version).successes} for version in self.versions}
        control, *treatments = self.versions
        return {"versions": counts, "comparisons": [self._comparison(control, treatment) for treatment in treatments]}

    def _comparison(self, control: str, treatment: str) -> dict[str, Any]:
        decision = self.decisions.get(treatment)
        return {
            "control": control,
            "treatment": treatment,
            "difference": asdict(self._difference(treatment)),
            "decision": asdict(decision) if decision else None,
        }

    def _difference(self, treatment: str) -> Difference:
        return difference(self.tally(self.versions[0]), self.tally(treatment), level=self.level)

    def _word(self, control: str, treatment: str) -> Literal["better", "worse", "alike"] | None:
        """The decision, without the interval, which takes fifty times as long."""
        first, second, enough = self.tally(control), self.tally(treatment), -math.log(1 - self.level)
        value = second.rate - first.rate
        if log_evidence(first, second, 0.0) >= enough:
            return "better" if value > 0 else "worse"
        if abs(value) < ALIKE and all(log_evidence(first, second, edge) >= enough for edge in (-ALIKE, ALIKE)):
            return "alike"
        return None
