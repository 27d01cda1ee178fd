"""What to try next: the step that promises most per second, by forecasts that learn from what was tried.

A step is one technique on one runtime, or other knobs for a program that did well. Its score is the expected improvement over the best
program that is likely to pass, times the probability that its quality holds, divided by the seconds that finding out takes. Nothing is
tried whose expected improvement is below `WORTH`: the search ends early rather than polishing noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from ..core.candidate import Candidate, Floor
from ..core.digest import digest_json
from ..core.seams import Forecast, Profile, Runtime, Technique
from .forecast import Effects, Physics, Promise, Surrogate, expected_improvement, share_right

WORTH = 0.005
"""Least expected improvement, in shares of the best time, for which a step is worth taking."""

_TECHNIQUE, _PAIR, _RUNTIME, _VARIANT, _KNOB = 0.12, 0.25, 0.08, 0.04, 0.10  # scales of effects on a log speed-up
_EIGHT_BITS = 0.25  # what this model gains by them, on any runtime: its layers are not those that were timed for the forecast
_PROGRAMS_A_STUDENT = 4  # that are looked at of a trained model: in float and in 8 bits, on more than one runtime
_STUDENTS = 4  # that the time for training is shared among, where that leaves each of them enough of it
_EPOCHS = 4  # that say what a student can learn: what nine tenths were cut from lost 10 points after one epoch and 0.35 after four
_CARRIED = 0.3  # of what the best untrained program gains, on the log speed-up, that the same will add to a student: 0 to 0.8 were measured
_BELIEF = 2.0  # outcomes that a chance which is known beforehand counts for
_HALF = 0.5
_WIDTH = 1.645  # of a 90 % range, in standard deviations
_FAR = 3.0  # standard deviations from its forecast at which an outcome is no longer one of many effects, but a missing kernel


@dataclass(frozen=True, kw_only=True)
class Step:
    """A program to try.

    technique: applied to `candidate` first, or None where the candidate is there already; then: applied to the graph of what that made
    (the quantiser after training for it); right: what is known beforehand of its chance to
    keep quality (mixed precision: from a model of the noise); known_log_speedup: of the same candidate with other knobs, or as priced for
    mixed precision; base_log_speedup: of `candidate` itself over the reference, where it is not as fast as what forecasts speak of (a
    pruned model); base_right: the chance that `candidate` itself keeps quality, without which nothing that is made of it does; profile:
    what it is forecast with, where that is not the original's; reason: of people's interest, beside the forecast.
    """

    candidate: Candidate
    technique: Technique | None
    runtime: Runtime
    then: Technique | None = None
    right: float | None = None
    known_log_speedup: float | None = None
    base_log_speedup: float = 0.0
    base_right: float = 1.0
    profile: Profile | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        return " > ".join([*self.candidate.recipe, *(t.step().text for t in self._techniques), self.runtime.step().text])

    @property
    def key(self) -> str:
        """Names the program that it makes: equal for a technique on a runtime and for those knobs of what the technique made."""
        return digest_json([self.build_key, self.runtime.step().to_json()])

    @property
    def build_key(self) -> str:
        """Names the candidate that it needs: equal for a technique on any runtime and for other knobs of what the technique made."""
        done = [*self.candidate.lineage, *(t.step() for t in self._techniques)]
        return digest_json([step.to_json() for step in done])

    @property
    def planned(self) -> Candidate:
        """The candidate that it will need, as far as is known before it is built: what runtimes are asked about."""
        return replace(self.candidate, facts=self.candidate.facts.union(*(t.adds for t in self._techniques)))

    @property
    def _techniques(self) -> list[Technique]:
        return [t for t in (self.technique, self.then) if t is not None]

    @property
    def effects(self) -> Effects:
        if self.technique is None:
            return {f"knobs {self.runtime.step().text}": _KNOB}
        name, runtime, variant = self.technique.name, self.runtime.name, self.technique.step().text
        if self.known_log_speedup is not None:  # priced from a measured sibling: what was learnt of the technique is in it already
            return {f"mixed on {runtime}": _KNOB, f"{variant} on {runtime}": _VARIANT}
        return {**self._shared_effects, f"pair {name} on {runtime}": _PAIR, f"{variant} on {runtime}": _VARIANT}

    @property
    def own_effects(self) -> Effects:
        """Those that it shares with its siblings on the same runtime alone."""
        return {name: scale for name, scale in self.effects.items() if name not in self._shared_effects}

    @property
    def _shared_effects(self) -> Effects:
        """Those of other techniques, and of the same one on other runtimes."""
        if self.technique is None:
            return {}
        found = {f"technique {self.technique.name}": _TECHNIQUE, f"runtime {self.runtime.name}": _RUNTIME}
        return {**found, "eight bits": _EIGHT_BITS} if "int8-weights" in self.technique.adds else found


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """What must be improved upon. log_speedup: of the best program that is likely to pass; right: the chance that it or another likely one
    passes; safe_log_speedup: of the best that surely keeps the limit, 0 for the reference: what is left should none of them pass;
    untrained_log_speedup: of the best that is likely to pass and was not trained: what may be done to a student too."""

    log_speedup: float = 0.0
    right: float = 1.0
    safe_log_speedup: float = 0.0
    untrained_log_speedup: float = 0.0

    def improvement(self, mean: float, deviation: float, brother: float = 0.0) -> float:
        """Expected from a step whose log speed-up is so distributed, should it pass. brother: log speed-up of the best program of the same
        candidate, which passes or fails with it: what is slower than that helps nobody."""
        over_best = expected_improvement(mean, deviation, max(brother, self.log_speedup))
        return self.right * over_best + (1 - self.right) * expected_improvement(mean, deviation, max(brother, self.safe_log_speedup))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended. speedup: measured, None where it did not run; right: 1 keeps quality, 0 does not, between: unsure, None: not
    looked at; build_seconds: 0 where it was built before; program_seconds: compiling, timing and judging."""

    speedup: float | None
    right: float | None
    build_seconds: float
    program_seconds: float


@dataclass(kw_only=True)
class Planner:
    """Scores steps and learns from their outcomes.

    program_seconds: first guess of what compiling, timing and judging a program takes; noise: of an outcome, standard deviation of the
    log speed-up.
    """

    physics: Physics
    profile: Profile
    program_seconds: float
    noise: float = 0.03
    _surrogate: Surrogate = field(init=False)
    _built: set[str] = field(default_factory=set)
    _right: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by technique: what was risked, and how it ended
    _candidate_right: dict[str, float] = field(default_factory=dict)  # by build
    _contenders: dict[str, list[Step]] = field(default_factory=dict)  # what was faster than the reference and is not surely wrong, by build
    _build_logs: dict[tuple[bool, str], list[float]] = field(default_factory=dict)  # by whether it trains, and the technique's name
    _program_times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._surrogate = Surrogate(self.noise)

    def estimate(self, step: Step) -> float:
        """Log speed-up of a step, tried or not, as far as all outcomes together tell. The fastest of many quick races was lucky too: what
        its siblings did says how much (Vazquez et al. 2008, arXiv:0811.0880, on expected improvement with noise)."""
        return self._log_speedup(step)[0]

    def promise(self, step: Step) -> Promise:
        """The forecast of a step."""
        mean, deviation = self._log_speedup(step)
        deviation = math.hypot(deviation, self.noise)  # of what will be measured
        return Promise(
            speedup=math.exp(mean), low=math.exp(mean - _WIDTH * deviation), high=math.exp(mean + _WIDTH * deviation),
            right=self._chance(step), seconds=self._seconds(step),
        )  # fmt: skip

    def best(
        self, steps: Iterable[Step], incumbent: Incumbent, seconds_left: float, train_left: float = 0.0
    ) -> tuple[Step, Promise] | None:
        """The step with the highest score of those that can be paid and are worth it, or None.

        seconds_left: of the search's budget; train_left: of the one for training, which pays for building what trains.
        """
        first = next(iter(self.ranked(steps, incumbent, seconds_left, train_left)), None)
        return None if first is None else (first, self.promise(first))

    def ranked(self, steps: Iterable[Step], incumbent: Incumbent, seconds_left: float, train_left: float = 0.0) -> list[Step]:
        """The steps that can be paid and are worth it, highest score first."""
        worth: list[tuple[float, Step]] = []
        for step in steps:
            mean, deviation = self._log_speedup(step)
            mean += self._carried(step, incumbent)
            gain = self._chance(step) * incumbent.improvement(mean, deviation, self._brother(step))
            if gain >= WORTH:
                worth.append((gain / self._seconds(step), step))
        kept = self._kept_for_students([step for _, step in worth], train_left)
        can_be_paid = [pair for pair in worth if self._can_be_paid(pair[1], seconds_left, train_left, kept)]
        return [step for _, step in sorted(can_be_paid, key=lambda pair: pair[0], reverse=True)]

    def _can_be_paid(self, step: Step, seconds_left: float, train_left: float, kept: float) -> bool:
        if step.technique is not None and step.technique.trains:
            return self._build_seconds(step) <= train_left and self._program_seconds <= seconds_left
        return self._seconds(step) <= seconds_left - kept

    def _kept_for_students(self, steps: Sequence[Step], train_left: float) -> float:
        """Seconds of the search that the models will need which can still be trained: cheap steps must not eat them up before."""
        builds = {s.build_key: self._build_seconds(s) for s in steps if s.technique is not None and s.technique.trains}
        spent = np.cumsum(sorted(builds.values()))
        return float(np.count_nonzero(spent <= train_left)) * _PROGRAMS_A_STUDENT * self._program_seconds

    def learn(self, step: Step, outcome: Outcome) -> None:
        """What a step taught about the next ones."""
        self._built.add(step.build_key)
        if outcome.right:
            self._contenders.setdefault(step.build_key, []).append(step)
        if outcome.speedup is not None:
            residual = math.log(outcome.speedup) - self._prior(step)
            mean, deviation = self._surrogate.predict(step.effects)
            is_far = abs(residual - mean) > _FAR * deviation
            self._surrogate.learn(step.own_effects if is_far else step.effects, residual)
        if step.technique is not None and outcome.right is not None:
            risk = self._risk(step.technique)
            self._right.setdefault(step.technique.name, []).append((risk, outcome.right))
            self._candidate_right[step.build_key] = outcome.right
        if outcome.build_seconds > 0 and step.technique is not None:
            off = math.log(outcome.build_seconds / self._forecast(step, step.technique).seconds)
            self._build_logs.setdefault((step.technique.trains, step.technique.name), []).append(off)
        if outcome.speedup is not None:
            self._program_times.append(outcome.program_seconds)

    def _log_speedup(self, step: Step) -> tuple[float, float]:
        mean, deviation = self._surrogate.predict(step.effects)
        return self._prior(step) + mean, deviation

    def _carried(self, step: Step, incumbent: Incumbent) -> float:
        """What a student that is not there yet is worth beyond its own log speed-up: that it can be quantised like the original."""
        is_student = step.technique is not None and step.technique.trains and step.technique.floor is Floor.MODULE and step.then is None
        return _CARRIED * incumbent.untrained_log_speedup if is_student and step.build_key not in self._built else 0.0

    def _brother(self, step: Step) -> float:
        """Log speed-up of the fastest contender that is the same candidate in another runtime or with other knobs, 0 without one."""
        return max([0.0, *map(self.estimate, self._contenders.get(step.build_key, []))])

    def _prior(self, step: Step) -> float:
        if step.known_log_speedup is not None or step.technique is None:
            return step.known_log_speedup or 0.0
        forecast = self._forecast(step, step.technique)
        if self.profile.objective == "size":
            return step.base_log_speedup + math.log(forecast.smaller)
        if self.profile.objective == "memory":
            return 0.5 * math.log(forecast.smaller)  # weights are a part of what a process holds
        return step.base_log_speedup + math.log(max(1e-6, self.physics.speedup(forecast, step.runtime.name)))

    def _chance(self, step: Step) -> float:
        if step.build_key in self._candidate_right:  # the same numbers on another runtime, or with other knobs
            return 0.1 + 0.85 * self._candidate_right[step.build_key]
        if step.technique is None:
            return share_right([1.0]) if step.right is None else step.right
        ends = self._right.get(step.technique.name, [])
        if step.right is None:
            return step.base_right * chance(self._risk(step.technique), ends)
        of_its_kind = [end for _, end in ends] if step.then is not None or step.technique.heals else []
        return (_BELIEF * step.right + sum(of_its_kind)) / (_BELIEF + len(of_its_kind))

    def _risk(self, technique: Technique) -> float:
        """As the technique says, and more of it where there is little time to learn to do without what was taken away."""
        epochs: int = getattr(technique, "epochs", _EPOCHS)
        risk: float = technique.expects(self.profile).risk ** min(1.0, epochs / _EPOCHS)
        return risk

    def _seconds(self, step: Step) -> float:
        return self._build_seconds(step) + self._program_seconds

    @property
    def _program_seconds(self) -> float:
        times = self._program_times
        return max(sum(times) / len(times) if times else self.program_seconds, 0.1)

    def _build_seconds(self, step: Step) -> float:
        if step.technique is None or step.build_key in self._built:
            return 0.0
        return self._off(step.technique) * self._forecast(step, step.technique).seconds

    def _off(self, technique: Technique) -> float:
        """How many times longer than forecast it takes to build: by its own past, else half of what others of its kind were off."""
        own = self._build_logs.get((technique.trains, technique.name), [])
        others = [log for (trains, _), logs in self._build_logs.items() if trains == technique.trains for log in logs]
        return math.exp(sum(own) / len(own) if own else 0.5 * sum(others) / max(1, len(others)))

    def _forecast(self, step: Step, technique: Technique) -> Forecast:
        return technique.expects(step.profile or self.profile)


def chance(risk: float, ends: Sequence[tuple[float, float]]) -> float:
    """Probability that a variant of a technique is right.

    risk: of the variant; ends: of others, what was risked and how it ended (1 right, 0 wrong). What was right where more was risked says
    something of it, and what was not where less was. Beyond what was right already the chance falls to nothing at 1.
    """
    telling = [end for at, end in ends if (at >= risk if end > _HALF else at <= risk)]
    safe = max([0.0, *(at for at, end in ends if end > _HALF)])
    beyond = max(0.0, risk - safe) / (1 - safe) if safe < 1 else 0.0
    return (1 - beyond**2) * share_right(telling)


def variants(techniques: Sequence[type[Technique]], profile: Profile, base: Candidate) -> list[Technique]:
    """Every variant of the techniques that may be tried on `base`."""
    found: list[Technique] = []
    for kind in techniques:
        if kind.floor is base.floor and not kind.lossless and kind.needs <= base.facts and not kind.forbids & base.facts:
            found += [_affordable(v, profile) if kind.trains else v for v in kind.space(profile) if v.fits(base, profile) is None]
    return found


def _affordable(technique: Technique, profile: Profile) -> Technique:
    """The technique with so few epochs that others like it can be paid too: not fewer than say something, unless all of the time were too
    short for them. What promises well can be taught for longer afterwards (`heals`)."""
    asked: Any = technique
    if not hasattr(technique, "epochs"):  # somebody's own
        return technique
    for least, share in ((_EPOCHS, profile.train_seconds / _STUDENTS), (1, profile.train_seconds)):
        while profile.train_seconds and asked.expects(profile).seconds > share and asked.epochs > least:
            asked = replace(asked, epochs=asked.epochs - 1)
    return cast(Technique, asked)


def neighbours(runtime: Runtime, profile: Profile) -> list[Runtime]:
    """The knobs that differ in one value: a walk through them needs no full grid."""
    own = _values(runtime)
    return [other for other in type(runtime).space(profile) if sum(a != b for a, b in zip(own, _values(other), strict=True)) == 1]


def _values(runtime: Runtime) -> list[object]:
    return list(vars(runtime).values())
