"""When and where mixed precision is tried: programs that are fast in 8 bits but not right, and layers that 8 bits make slower."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import DiskFull, HastenError
from ..core.measurement import Interval
from ..core.seams import Profile
from ..core.trial import Trial
from ..measure.sensitivity import Part
from .mixed import Mix, chance, mixes, prices
from .planner import WORTH, Step
from .study import Study
from .tryout import LIKELY
from .workshop import Workshop

_RESCUED = 2  # programs that are mixed at most
_SECONDS_PER_PART = 0.4  # to quantise and run a small graph; large weights are copied: more for each megabyte
_SECONDS_PER_MEGABYTE = 0.02
_PARTS = 50  # expected, before they are counted
_TRANSITION = 0.01  # share of the time that converting to float and back costs a part, before a mix has taught it


@dataclass(kw_only=True)
class _Whole:
    """A graph in 8 bits as a whole, on one runtime. seen: share of the noise -> loss, of it and of its mixes so far; price: of each part
    (mixed.prices), without `transition`."""

    step: Step
    trial: Trial
    gain: float
    right: float
    seen: dict[float, Interval] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    price: np.ndarray = field(default_factory=lambda: np.zeros(0))
    transition: float = _TRANSITION
    mixes: list[Mix] = field(default_factory=list)

    def choose(self) -> None:
        """The mixes, with what is known of prices by now."""
        self.mixes = mixes(self.parts, self.price + self.transition)


class Mixer:
    """Offers mixed-precision steps to the search; `look` pays for the measurements that they need, once."""

    def __init__(self, shop: Workshop, study: Study, profile: Profile, limit: float) -> None:
        self.shop, self.study, self.profile, self.limit = shop, study, profile, limit
        self._wholes: dict[tuple[str, str], _Whole] = {}
        self._mix_of: dict[str, tuple[_Whole, Mix]] = {}  # by the key of its step
        self._looked: set[tuple[str, str]] = set()

    def note(self, step: Step, trial: Trial, gain: float | None, right: float | None) -> None:
        """What became of a step. Of variants of one technique on one runtime the fastest that was judged is remembered."""
        if step.key in self._mix_of:
            whole, mix = self._mix_of[step.key]
            if trial.drop is not None:
                whole.seen[mix.noise] = trial.drop
            if gain is not None:  # what the parts' own times cannot tell: conversions, and fusions that no longer happen
                whole.transition = max(0.0, whole.transition + (whole.gain / gain - mix.slower) / mix.num_parts)
                whole.choose()
        elif step.technique is not None and step.technique.skipping(("",)) is not None and gain is not None:
            key = (step.technique.name, step.runtime.name)
            known = self._wholes.get(key)
            if trial.drop is not None and right is not None and (known is None or gain * (0.5 + right) > known.gain * (0.5 + known.right)):
                self._wholes[key] = _Whole(step=step, trial=trial, gain=gain, right=right, seen={1.0: trial.drop})

    def look(self, best_log_speedup: float, seconds_left: float) -> bool:
        """Measure what mixing needs, for the next program that is worth it. Whether something new is known."""
        for key, whole in self._worth(best_log_speedup):
            megabytes = whole.step.candidate.path.stat().st_size / 1e6
            seconds = _PARTS * (_SECONDS_PER_PART + _SECONDS_PER_MEGABYTE * megabytes)
            if key in self._looked or seconds > seconds_left:
                continue
            self._looked.add(key)
            self.study.decide(f"the parts of {whole.step.text}", "what each costs in quality and gains in time in 8 bits")
            try:
                self._measure(whole)
            except DiskFull:
                raise
            except HastenError as error:
                self.study.learn(f"not mixed: {error}")
                continue
            return True
        return False

    def steps(self, best_log_speedup: float) -> Iterator[Step]:
        """Mixed programs that may be better than the best."""
        for _, whole in self._worth(best_log_speedup):
            technique = whole.step.technique
            for mix in whole.mixes:
                skipping = technique.skipping(mix.skip) if technique else None
                step = Step(
                    candidate=whole.step.candidate, technique=skipping, runtime=whole.step.runtime,
                    right=chance(mix, whole.seen, self.limit), known_log_speedup=math.log(whole.gain / mix.slower),
                    reason=f"{len(mix.skip)} nodes stay in float and {100 * mix.noise:.0f} % of the noise is left",
                )  # fmt: skip
                self._mix_of.setdefault(step.key, (whole, mix))
                yield step

    def _worth(self, best_log_speedup: float) -> list[tuple[tuple[str, str], _Whole]]:
        """Fast enough to be worth a rescue, fastest first."""
        found = [item for item in self._wholes.items() if item[1].right < LIKELY and math.log(item[1].gain) > best_log_speedup + WORTH]
        return sorted(found, key=lambda item: -item[1].gain)[:_RESCUED]

    def _measure(self, whole: _Whole) -> None:
        parts = whole.parts = self.shop.parts(whole.step.candidate, reduce_range="u8s8-saturates" in self.profile.facts)
        whole.price = self._prices(whole, parts)
        whole.choose()
        worst = max(parts, key=lambda part: part.noise)
        share = worst.noise / max(1e-30, sum(part.noise for part in parts))
        self.study.learn(f"{len(parts)} parts; the noisiest ({worst.nodes[0]}) makes {100 * share:.0f} % of the noise.")

    def _prices(self, whole: _Whole, parts: Sequence[Part]) -> np.ndarray:
        in_float = self.shop.operator_times(Trial(candidate=whole.step.candidate, runtime=whole.step.runtime))
        in_int8 = self.shop.operator_times(whole.trial)
        if in_float is None or in_int8 is None:  # the runtime does not tell: as if every part gained alike
            return np.full(len(parts), max(0.0, whole.gain - 1) / len(parts))
        return prices(parts, in_float, in_int8)
