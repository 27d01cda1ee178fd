"""Many programs race for one place: the reference's, or the first among the contenders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..core.trial import Trial
from ..measure.latency import Plan, Race
from . import racing
from .study import Study
from .tryout import LIKELY, Tryout

_BLOCK = Plan(rounds=16, block_seconds=6.0)
_RULES = racing.Rules()
LOSSLESS = replace(_RULES, max_blocks=4)
ORDERING = replace(_RULES, zone=0.01, max_blocks=4)
"""Of contenders: the final race, with five sets of processes, decides what is said of them. The zone is narrower than elsewhere, since
what is given away here for a simpler program, other tools would not give away."""


class Contest:
    """Finds the simplest of the fastest, by racing them, or by what else the objective asks for."""

    def __init__(self, tryout: Tryout, study: Study) -> None:
        self.tryout, self.study = tryout, study

    def fastest(
        self, trials: dict[str, Trial], label: str, rules: racing.Rules, *, leave_seconds: float
    ) -> tuple[dict[str, Trial], racing.Evidence | None, str]:
        """The trials that ran, with their measurements; the evidence; and the simplest of the fastest (or of least cost).

        leave_seconds: of the budget that must remain for another block to start.
        """
        known = dict(trials)
        simplest = sorted(known, key=lambda key: self._simplicity(known[key]))
        if not self.tryout.races:
            known = {t.id: t for t in self.tryout.time(list(known.values()), label)}
            least = min(self.tryout.cost(t) for t in known.values())
            return known, None, next(k for k in simplest if k in known and self.tryout.cost(known[k]) <= 1.01 * least)

        def block(keys: Sequence[str], number: int) -> Race:
            race = self.tryout.race([known[k] for k in keys], replace(_BLOCK, seed=number), label)
            for key in keys:
                if key in race.latency:
                    known[key] = self.tryout.sized(known[key].measured(race.latency[key]))
                else:
                    del known[key]
            return race

        result, evidence = racing.run(simplest, block, rules, may_go_on=lambda: self.study.left > leave_seconds)
        blocks = len(evidence.blocks)
        certainty = "surely" if result.sure else "as far as can be told"
        self.study.learn(
            f"after {blocks} sets of processes, {known[result.winner].text} is {certainty} within {rules.zone:.0%} of the fastest."
        )
        return known, evidence, result.winner

    def _simplicity(self, trial: Trial) -> tuple[bool, int, int, str]:
        """The fixed order of equals: who is likely to pass, then the fewest steps and knobs."""
        return (
            self.tryout.rightness.get(trial.id, 1.0) < LIKELY, len(trial.candidate.lineage), len(trial.runtime.options()), trial.text,
        )  # fmt: skip
