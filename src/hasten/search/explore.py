"""The search, first version: lossless programs first, since the fastest of them is what must be beaten; then techniques.

Cheap checks come before dear ones: fits (free), build, runs at all, is it faster, is it right. A variant whose sibling
already passed waits until the end, since it would give the same speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.candidate import Candidate, Floor
from ..core.errors import HastenError, NotPossibleHere
from ..core.measurement import Interval, Measurement
from ..core.registry import find
from ..core.seams import Profile, Runtime, Technique
from ..core.trial import Fate, Trial
from ..core.units import format_seconds
from ..measure.latency import Plan, final_plan
from ..measure.quality import METRICS
from ..measure.statistics import ratio_interval
from .judge import Judge
from .space import Space, rounds_of_variants
from .study import Study
from .workshop import Workshop

_QUICK = Plan()
_LOSSLESS = Plan(rounds=30, block_seconds=20.0)
_LONGER = Plan(rounds=60, block_seconds=30.0, seed=2)
_THROUGHPUT_BATCH = 16
_WORTH_JUDGING = 1.02  # speed-up over the reference


@dataclass(frozen=True, kw_only=True)
class Explored:
    """start: the user's own program; reference: the fastest lossless one; contenders: what beats it and may be right."""

    start: Trial
    reference: Trial
    contenders: tuple[Trial, ...]


def right_runtime(floor: Floor) -> Runtime:
    """The runtime that defines what a model on `floor` computes. Raises NotPossibleHere where it is not installed."""
    for kind in find(Runtime).values():
        if kind.defines_right and kind.floor is floor:
            return kind()
    raise NotPossibleHere("runtime", f"must be there to run the original on the {floor} floor")


class Explorer:
    """One search. reserve_seconds: what the finish (final race, certification, bundle) will need of the budget."""

    def __init__(self, shop: Workshop, study: Study, judge: Judge, profile: Profile, space: Space, start: Trial) -> None:
        self.shop, self.study, self.judge, self.profile, self.space = shop, study, judge, profile, space
        self.start, self.reference = start, start
        self.contenders: dict[str, Trial] = {}
        self.seconds_per_entrant = 1.0
        self.graphs: list[Candidate] = [start.candidate]
        self._knobs: dict[type[Runtime], Runtime] = {}

    def explored(self) -> Explored:
        """What is known so far: an answer at any moment."""
        best = sorted(self.contenders.values(), key=self.rank)
        return Explored(start=self.start, reference=self.reference, contenders=tuple(best))

    def cost(self, trial: Trial) -> float:
        """What the objective minimises."""
        metric = {"latency": "latency", "throughput": "latency", "size": "size", "memory": "peak_memory"}[self.profile.objective]
        measurement = trial.latest(metric)
        return measurement.interval().value if measurement else float("inf")

    @staticmethod
    def planned(shop: Workshop, study: Study, profile: Profile, space: Space) -> Space:
        """The space with what the model's own graph tells: only what must be built to see the graph is built."""
        start = Trial(candidate=shop.workload.original, runtime=right_runtime(shop.workload.original.floor))
        with Judge(shop, start, METRICS["cosine"], 0.0) as judge:
            explorer = Explorer(shop, study, judge, profile, space, start)
            explorer.graphs = explorer._closure(shop.workload.original)
            explorer._look_at_graph()
        lines = [
            replace(line, verdict=_refusal(kind, explorer.profile) or "ok") if (kind := _named(space, line.name)) and line.ok else line
            for line in space.lines
        ]
        return replace(space, lines=tuple(lines))

    def reserve_seconds(self) -> float:
        """What the finish will need: the final race, memory, throughput, and two programs over the certify split.

        At most half of what is left: on a busy machine everything takes long, and a finish without a search is worth little.
        """
        blocks = final_plan(self.study.budget_seconds).blocks
        per_sample = self.judge.seconds_per_sample
        slow, fast = per_sample.get(self.start.id, 0.0), per_sample.get(self.reference.id, 0.0)
        certify = self.judge.num_samples("certify") * (slow + fast)
        estimate = 1.2 * (6 * blocks * self.seconds_per_entrant + 8 * self.seconds_per_entrant + certify) + 5
        return min(estimate, 0.5 * self.study.left)

    def rank(self, trial: Trial) -> float:
        """What orders contenders, least first. Speeds are compared as ratios to the reference in their own races: the speed of
        the machine itself changes between races."""
        if self.profile.objective in ("latency", "throughput") and trial.speedup is not None:
            return -trial.speedup.value
        return self.cost(trial)

    def lossless(self) -> None:
        """Every lossless graph on every runtime with every knob; the fastest becomes the reference."""
        self.study.stage("lossless", "the fastest program that changes nothing is what must be beaten")
        self.graphs = self._closure(self.shop.workload.original)
        self._look_at_graph()
        trials = {self.start.id: self.start}
        for graph in self.graphs:
            for kind in self.space.runtimes:
                knobs = [kind()] if kind.defines_right and kind.floor is Floor.MODULE else kind.space(self.profile)
                for runtime in knobs:
                    trial = Trial(candidate=graph, runtime=runtime)
                    if kind.floor is graph.floor and runtime.fits(graph, self.shop.target) is None:
                        trials.setdefault(trial.id, trial)
        good = [t for t in trials.values() if t.id == self.start.id or self._has_parity(t)]
        raced = self._time(good, "lossless", _LOSSLESS)
        self.start = next(t for t in raced if t.id == self.start.id)
        self.reference = self._fastest(raced)
        for trial in raced:
            trial = trial.with_(speedup=speedup(self.reference, trial))
            fate = Fate.START if trial.id == self.start.id else Fate.REFERENCE if trial.id == self.reference.id else Fate.LOST
            reason = trial.reason or ("" if fate is not Fate.LOST else "right, but another lossless program is faster")
            kept = self.study.keep(trial.with_(fate=fate, reason=reason))
            if kept.id == self.reference.id:
                self.reference = kept
        self._learn_knobs(raced)
        self.study.learn(f"the fastest lossless program is {self.reference.text}: {self._cost_text(self.reference)}")
        self.study.observer.best(f"{self.reference.text}, lossless")

    def lossy(self, reserve_seconds: float) -> None:
        """Techniques that change outputs, best promise per second first, until the budget says stop."""
        self.study.stage("techniques", "what changes outputs must be faster than the reference, and right")
        base = self.graphs[-1]
        lossy = [kind for kind in self.space.techniques if not kind.lossless and kind.floor is base.floor]
        waiting = rounds_of_variants(lossy, self.profile)
        postponed: list[Technique] = []
        succeeded: set[type[Technique]] = set()
        for number, technique in enumerate(waiting):
            coming = [t for t in waiting[number + 1 : number + 4] if type(t) not in succeeded and self._applies(t, base)]
            self.shop.prefetch([(t, base) for t in coming])
            if type(technique) in succeeded:
                postponed.append(technique)
            elif not self._affordable(technique, reserve_seconds):
                break
            elif self._try(technique, base):
                succeeded.add(type(technique))
        self._polish(reserve_seconds)
        for technique in postponed:
            if not self._affordable(technique, reserve_seconds):
                break
            self._try(technique, base)

    def _closure(self, original: Candidate) -> list[Candidate]:
        """The original and all that lossless techniques make of it, each built once, most worked on last."""
        found, frontier = [original], [original]
        while frontier:
            candidate = frontier.pop(0)
            for kind in self.space.techniques:
                for technique in [v for v in kind.space(self.profile) if v.lossless]:
                    made = self._build(technique, candidate) if self._applies(technique, candidate) else None
                    if made is not None and made.id not in {c.id for c in found}:
                        found.append(made)
                        frontier.append(made)
        return found

    def _look_at_graph(self) -> None:
        counts = self.shop.count(self.graphs[-1])
        self.profile = replace(self.profile, operators=counts["operators"], num_calibration=len(self.shop.workload.splits.calibrate))

    def _applies(self, technique: Technique, candidate: Candidate) -> bool:
        return (
            technique.floor is candidate.floor
            and technique.needs <= candidate.facts
            and not technique.forbids & candidate.facts
            and technique.fits(candidate, self.profile) is None
        )

    def _build(self, technique: Technique, candidate: Candidate) -> Candidate | None:
        self.study.decide(technique.step().text, _why(technique, self.profile))
        try:
            return self.shop.apply(technique, candidate)
        except HastenError as error:
            if technique.floor is Floor.MODULE:
                raise  # a model that cannot leave its floor is the user's to know, at once
            self.study.learn(f"failed: {error}")
            failed = candidate.then(technique.step(), candidate.path, adds=technique.adds, lossless=technique.lossless)
            runtime = right_runtime(Floor.GRAPH)
            self.study.keep(Trial(candidate=failed, runtime=runtime, fate=Fate.FAILED, reason=str(error)))
            return None

    def _has_parity(self, trial: Trial) -> bool:
        self.study.decide(trial.text, "does it compute what the original computes?")
        try:
            verdict = self.judge.parity(trial)
        except HastenError as error:
            self._failed(trial, str(error))
            return False
        if verdict.outcome != "passed":
            self._failed(trial.with_(verdict=verdict), f"not lossless after all: {verdict.reason}")
        return verdict.outcome == "passed"

    def _failed(self, trial: Trial, reason: str) -> None:
        self.study.keep(trial.with_(fate=Fate.FAILED, reason=reason))
        self.study.learn(f"failed: {reason}")

    def _try(self, technique: Technique, base: Candidate) -> bool:
        """One variant on every runtime. Whether something of it beats the reference and seems right."""
        if not self._applies(technique, base) or (candidate := self._build(technique, base)) is None:
            return False
        trials = []
        for kind in self.space.runtimes:
            runtime = self._knobs.get(kind, kind())
            if kind.floor is candidate.floor and runtime.fits(candidate, self.shop.target) is None:
                trials.append(Trial(candidate=candidate, runtime=runtime))
        return self._judge(trials)

    def _judge(self, trials: Sequence[Trial]) -> bool:
        """Sane, then faster, then right. Whether one of them is all three, or may be."""
        sane = [t for t in trials if t.id not in self.study.trials and self._is_sane(t)]
        if not sane:
            return False
        timed = [t for t in self._time([*sane, self.reference], "technique") if t.id != self.reference.id]
        promising = False
        for trial in sorted(self._look_longer(timed), key=self.rank):
            if not self._beats(trial):
                how = f"{trial.speedup.value:.2f}x" if trial.speedup else self._cost_text(trial)
                self.study.keep(trial.with_(fate=Fate.LOST, reason=f"not better than the reference: {how}"))
                self.study.learn(f"{trial.runtime.name}: {how} of the reference, so its quality was not looked at.")
                continue
            promising |= self._sample_quality(trial)
        return promising

    def _look_longer(self, timed: Sequence[Trial]) -> list[Trial]:
        """The trials, those that a quick race could not tell from the reference timed again for longer."""
        unclear = [t for t in timed if t.speedup is not None and t.speedup.low <= 1 < t.speedup.high and t.speedup.value > 0.95]
        if not unclear or self.profile.objective in ("size", "memory"):
            return list(timed)
        again = {t.id: t for t in self._time([*unclear, self.reference], "longer", _LONGER)}
        return [again.get(t.id, t) for t in timed]

    def _is_sane(self, trial: Trial) -> bool:
        try:
            problem = self.judge.sane(trial)
        except HastenError as error:
            problem = str(error)
        if problem:
            self._failed(trial, problem)
        return problem is None

    def _sample_quality(self, trial: Trial) -> bool:
        try:
            judged = self.judge.sample(trial)
        except HastenError as error:
            self._failed(trial, str(error))
            return False
        gain = f"{trial.speedup.value:.2f}x" if trial.speedup else self._cost_text(trial)
        lost = f"{judged.drop.value:.2f} points ({judged.drop.low:.2f} to {judged.drop.high:.2f}) on {judged.num_samples} samples"
        trial = trial.with_(drop=judged.drop)
        if judged.state == "out":
            self.study.keep(trial.with_(fate=Fate.LOST, reason=f"{gain}, but it loses {lost}, more than the {self.judge.limit:g} allowed"))
            self.study.learn(f"{trial.runtime.name}: {gain}, but loses {lost}: out.")
            return False
        trial = self.study.keep(trial.with_(fate=Fate.PROMISING, reason=f"{gain}, loses {lost}"))
        self.contenders[trial.id] = trial
        self.study.learn(f"{trial.runtime.name}: {gain}, loses {lost}: {'in' if judged.state == 'in' else 'not sure yet'}.")
        if self.rank(trial) <= min(self.rank(t) for t in self.contenders.values()):
            self.study.observer.best(f"{trial.text}: {gain} over lossless, {lost} lost, not yet certified")
        return judged.state == "in"

    def _polish(self, reserve_seconds: float) -> None:
        """The other knobs of what beats the reference: int8 kernels may like other threads than float ones."""
        for trial in sorted(self.contenders.values(), key=self.rank)[:2]:
            if self.study.left < reserve_seconds + 4 * self.seconds_per_entrant:
                return
            others = [r for r in type(trial.runtime).space(self.profile) if r != trial.runtime]
            if others:
                self.study.decide(f"other knobs of {trial.text}", "what suits float32 need not suit it")
                self._judge([trial.with_(runtime=r, measurements=(), fate=Fate.LOST, drop=None) for r in others])

    def _affordable(self, technique: Technique, reserve_seconds: float) -> bool:
        need = technique.expects(self.profile).seconds + reserve_seconds + 3 * self.seconds_per_entrant
        if self.study.left > need:
            return True
        self.study.decide("stop", f"{technique.step().text} and the finish would need about {need:.0f} s")
        self.study.learn(f"{max(0, self.study.left):.0f} s of the budget are left: what is known must do.")
        return False

    def _beats(self, trial: Trial) -> bool:
        if self.profile.objective in ("latency", "throughput"):
            # What is not surely slower may go on: the final race, not this one, is what the answer must win.
            return trial.speedup is not None and trial.speedup.high > 1 and trial.speedup.value > _WORTH_JUDGING
        return self.cost(trial) < 0.98 * self.cost(self.reference)

    def _fastest(self, raced: Sequence[Trial]) -> Trial:
        """The trial of least cost. Of those that are as good within the noise and 3 %, the one with the fewest steps and knobs,
        so that a repeated search names the same one."""
        best = min(raced, key=self.cost)

        def tied(trial: Trial) -> bool:
            ratio = speedup(best, trial)
            return self.cost(trial) <= 1.03 * self.cost(best) and (ratio is None or ratio.high >= 1)

        return min((t for t in raced if tied(t)), key=lambda t: (len(t.candidate.lineage), len(t.runtime.options()), t.text))

    def _time(self, trials: Sequence[Trial], label: str, plan: Plan = _QUICK) -> list[Trial]:
        """The trials with what the objective needs measured, against the reference where it takes part."""
        self.study.decide(f"timing {len(trials)} programs", "interleaved, so that a slow minute hits all alike")
        batch = self.timed_batch
        began = self.study.elapsed
        needed = {self.start.id, self.reference.id}
        result, failed = self.shop.race_survivors(trials, plan, needed=needed, batch_size=batch, label=label)
        for trial in trials:
            if trial.id in failed:
                self._failed(trial, failed[trial.id])
        trials = [t for t in trials if t.id not in failed]
        if plan is _QUICK:
            self.seconds_per_entrant = max(self.seconds_per_entrant, (self.study.elapsed - began) / len(trials))
        base = result.latency.get(self.reference.id)
        timed = []
        for trial in trials:
            known = trial.measured(result.latency[trial.id], self._size(trial))
            if base is not None:
                known = known.with_(speedup=speedup(self.reference.measured(base), known))
            if self.profile.objective == "memory":
                known = known.measured(self.shop.memory(trial))
            timed.append(known)
        return timed

    @property
    def timed_batch(self) -> int:
        """Samples a call at which programs race: the target's, or more where throughput is the aim."""
        if self.profile.objective == "throughput" and self.shop.workload.original.signature.batch is None:
            return max(_THROUGHPUT_BATCH, self.shop.target.batch_size)
        return self.shop.target.batch_size

    def _size(self, trial: Trial) -> Measurement:
        size = self.shop.compile(trial.runtime, trial.candidate).size_bytes
        return Measurement(metric="size", unit="B", samples=(float(size),), method={"how": "bytes of the program's files"})

    def _learn_knobs(self, raced: Sequence[Trial]) -> None:
        """The knobs that suited each runtime best: the first guess for what comes next."""
        for trial in sorted(raced, key=self.cost, reverse=True):
            self._knobs[type(trial.runtime)] = trial.runtime

    def _cost_text(self, trial: Trial) -> str:
        cost = self.cost(trial)
        return format_seconds(cost) if self.profile.objective in ("latency", "throughput") else f"{cost / 1e6:.2f} MB"


def speedup(over: Trial, trial: Trial) -> Interval | None:
    """How many times faster a trial is than another one, from the race that both ran in last."""
    base, ours = over.latest("latency"), trial.latest("latency")
    return ratio_interval(base.round_medians(), ours.round_medians()) if base is not None and ours is not None else None


def _named(space: Space, name: str) -> type[Technique] | None:
    return next((kind for kind in space.techniques if kind.name == name), None)


def _refusal(kind: type[Technique], profile: Profile) -> str | None:
    first = next(kind.space(profile), None)
    return "no variant of it fits this model" if first is None else first.fits(None, profile)


def _why(technique: Technique, profile: Profile) -> str:
    if technique.lossless:
        return "changes nothing but time"
    forecast = technique.expects(profile)
    return f"promises about {forecast.speedup:.1f}x over lossless for {forecast.seconds:.0f} s of building"
