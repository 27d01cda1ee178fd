"""One program's way through the checks: does it run, is it faster than the reference, is it right."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import DiskFull, HastenError
from ..core.measurement import Interval, Measurement
from ..core.trial import Fate, Trial
from ..core.units import format_joules, format_seconds
from ..measure.latency import Plan, Race
from ..measure.statistics import ratio_interval
from .judge import Judge
from .study import Study
from .workshop import Workshop

_QUICK = Plan(rounds=12, block_seconds=4.0)
_AGAIN = Plan(rounds=12, block_seconds=4.0, seed=3)
_SURPRISE = 0.85  # of the least speed-up that was expected
_LONGER = Plan(rounds=60, block_seconds=30.0, seed=2)
_THROUGHPUT_BATCH = 16
_WORTH_JUDGING = 1.02  # speed-up over the reference
LIKELY = 0.85


class Tryout:
    """Judges trials against `reference`, which the lossless stage sets. rightness: how quality looked by trial id: 1 surely within the
    limit, LIKELY if certify would confirm what was seen, 0 surely not, else the chance that it would, 0.4 at most."""

    def __init__(self, shop: Workshop, study: Study, judge: Judge, objective: str) -> None:
        self.shop, self.study, self.judge, self.objective = shop, study, judge, objective
        self.reference: Trial | None = None
        self.rightness: dict[str, float] = {}
        self.seconds_per_entrant = 1.0

    @property
    def races(self) -> bool:
        """Whether the objective is one that needs a race to compare."""
        return self.objective in ("latency", "throughput")

    @property
    def batch_size(self) -> int:
        """Samples a call at which programs race: the target's, or more where throughput is the aim."""
        if self.objective == "throughput" and self.shop.workload.original.signature.batch is None:
            return max(_THROUGHPUT_BATCH, self.shop.target.batch_size)
        return self.shop.target.batch_size

    def cost(self, trial: Trial) -> float:
        """What the objective minimises."""
        metric = {"latency": "latency", "throughput": "latency", "size": "size", "memory": "peak_memory", "energy": "energy"}[
            self.objective
        ]
        measurement = trial.latest(metric)
        return measurement.interval().value if measurement else float("inf")

    def cost_text(self, trial: Trial) -> str:
        """`cost` for people."""
        cost = self.cost(trial)
        if self.objective == "energy":
            return format_joules(cost)
        return format_seconds(cost) if self.races else f"{cost / 1e6:.2f} MB"

    def gain(self, trial: Trial) -> float | None:
        """How many times better than the reference, in what the objective minimises; None where it was not measured."""
        if self.races:
            return trial.speedup.value if trial.speedup else None
        ours = self.cost(trial)
        return self.cost(self._reference) / ours if ours < float("inf") else None

    def rank(self, trial: Trial) -> float:
        """What orders trials, least first. Speeds are compared as ratios to the reference in their own races: the speed of
        the machine itself changes between races."""
        return -trial.speedup.value if self.races and trial.speedup is not None else self.cost(trial)

    def has_parity(self, trial: Trial) -> bool:
        """Whether a lossless trial computes what the original computes; one that does not has failed."""
        self.study.decide(trial.text, "does it compute what the original computes?")
        try:
            verdict = self.judge.parity(trial)
        except DiskFull:
            raise
        except HastenError as error:
            self._failed(trial, str(error))
            return False
        if verdict.outcome != "passed":
            self._failed(trial.with_(verdict=verdict), f"not lossless after all: {verdict.reason}")
        return verdict.outcome == "passed"

    def run(self, trial: Trial, best: float = 1.0, expected: float = 0.0) -> tuple[Trial, float | None]:
        """Sane, then faster, then right. The trial with what was learnt, and how right it looked (None: not looked at).

        best: speed-up of the best contender so far: what is surely slower than that is not timed for longer; expected: the least
        speed-up that was expected: what is far below it is timed once more.
        """
        if not self._is_sane(trial):
            return trial, None
        timed = self._look_longer(self._look_again(self._against_reference(trial, "technique", _QUICK), expected), best)
        if timed is None:
            return trial, None
        if not self._beats(timed):
            how = f"{timed.speedup.value:.2f}x" if timed.speedup else self.cost_text(timed)
            self.study.keep(timed.with_(fate=Fate.LOST, reason=f"not better than the reference: {how}"))
            self.study.learn(f"{trial.runtime.name}: {how} of the reference, so its quality was not looked at.")
            return timed, None
        return self._sample_quality(timed)

    def time(self, trials: Sequence[Trial], label: str, plan: Plan = _QUICK) -> list[Trial]:
        """The trials that survive a race, with latency, size, and memory where that is the aim."""
        result = self.race(trials, plan, label)
        timed = []
        for trial in trials:
            if trial.id in result.latency:
                known = self.sized(trial.measured(*result.of(trial.id)))
                timed.append(known.measured(self.shop.memory(trial)) if self.objective == "memory" else known)
        return timed

    def race(self, trials: Sequence[Trial], plan: Plan, label: str) -> Race:
        """One race; who crashed in it is kept as failed and is not in its result."""
        self.study.decide(f"timing {len(trials)} programs", "interleaved, so that a slow minute hits all alike")
        began = self.shop.worked_seconds
        needed = {self.judge.original.id} | ({self.reference.id} if self.reference else set())
        result, failed = self.shop.race_survivors(trials, plan, needed=needed, batch_size=self.batch_size, label=label)
        for trial in trials:
            if trial.id in failed:
                self._failed(trial, failed[trial.id])
        if plan.blocks == 1 and plan.rounds <= 16:
            self.seconds_per_entrant = max(self.seconds_per_entrant, (self.shop.worked_seconds - began) / len(trials))
        return result

    def sized(self, trial: Trial) -> Trial:
        """The trial with its size."""
        if trial.latest("size") is not None:
            return trial
        size = self.shop.compile(trial.runtime, trial.candidate).size_bytes
        return trial.measured(Measurement(metric="size", unit="B", samples=(float(size),), method={"how": "bytes of the program's files"}))

    @property
    def _reference(self) -> Trial:
        assert self.reference is not None, "the lossless stage comes first"
        return self.reference

    def _against_reference(self, trial: Trial, label: str, plan: Plan) -> Trial | None:
        timed = {t.id: t for t in self.time([trial, self._reference], label, plan)}
        if trial.id not in timed:
            return None
        base, ours = timed[self._reference.id].latest("latency"), timed[trial.id].latest("latency")
        assert base is not None
        assert ours is not None
        return timed[trial.id].with_(speedup=ratio_interval(base.round_medians(), ours.round_medians()))

    def _look_longer(self, timed: Trial | None, best: float) -> Trial | None:
        """The trial, timed again for longer where a quick race could not tell it from the reference, and it may still be the best."""
        speed = timed.speedup if timed else None
        if timed is None or speed is None or not (self.races and speed.low <= 1 and speed.high > best and speed.value > 0.95):
            return timed
        return self._against_reference(timed, "longer", _LONGER)

    def _look_again(self, timed: Trial | None, expected: float) -> Trial | None:
        """The better of two races in fresh processes, where the first was a bad surprise.

        Now and then a program of several threads is slow for a whole race (measure/cores.py); none is faster than it is.
        """
        if timed is None or timed.speedup is None or timed.speedup.value > _SURPRISE * expected:
            return timed
        again = self._against_reference(timed, "surprise", _AGAIN)
        return again if again is not None and again.speedup is not None and again.speedup.value > timed.speedup.value else timed

    def _is_sane(self, trial: Trial) -> bool:
        try:
            problem = self.judge.sane(trial)
        except DiskFull:
            raise
        except HastenError as error:
            problem = str(error)
        if problem:
            self._failed(trial, problem)
        return problem is None

    def _beats(self, trial: Trial) -> bool:
        if self.races:
            # What is not surely slower may go on: the final race, not this one, is what the answer must win.
            return trial.speedup is not None and trial.speedup.high > 1 and trial.speedup.value > _WORTH_JUDGING
        return self.cost(trial) < 0.98 * self.cost(self._reference)

    def _sample_quality(self, trial: Trial) -> tuple[Trial, float | None]:
        try:
            judged = self.judge.sample(trial)
        except DiskFull:
            raise
        except HastenError as error:
            self._failed(trial, str(error))
            return trial, None
        unsure = LIKELY if self.judge.is_likely(judged.drop) else min(0.4, self.judge.chance(judged.drop))
        right = self.rightness[trial.id] = {"in": 1.0, "out": 0.0}.get(judged.state, unsure)
        gain = f"{trial.speedup.value:.2f}x" if self.races and trial.speedup else self.cost_text(trial)
        lost = _points(judged.drop, judged.num_samples)
        if judged.state == "out":
            reason = f"{gain}, but it loses {lost}, more than the {self.judge.limit:g} allowed"
            self.study.learn(f"{trial.runtime.name}: {gain}, but loses {lost}: out.")
            return self.study.keep(trial.with_(drop=judged.drop, fate=Fate.LOST, reason=reason)), right
        self.study.learn(f"{trial.runtime.name}: {gain}, loses {lost}: {'in' if judged.state == 'in' else 'not sure yet'}.")
        self.study.observer.best(f"{trial.text}: {gain} over lossless, {lost} lost, not yet certified")
        return self.study.keep(trial.with_(drop=judged.drop, fate=Fate.PROMISING, reason=f"{gain}, loses {lost}")), right

    def _failed(self, trial: Trial, reason: str) -> None:
        self.study.keep(trial.with_(fate=Fate.FAILED, reason=reason))
        self.study.learn(f"failed: {reason}")


def _points(drop: Interval, num_samples: int) -> str:
    return f"{drop.value:.2f} points ({drop.low:.2f} to {drop.high:.2f}) on {num_samples} samples"
