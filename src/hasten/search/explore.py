"""The search: lossless programs first, since the fastest of them is what must be beaten; then what promises most per second.

Cheap checks come before dear ones: fits (free), build, runs at all, is it faster, is it right. What is tried next and why is the planner's
affair (planner.py), who of many is fastest that of the races (racing.py), and one program's way through the checks that of tryout.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..core.candidate import Candidate, Floor
from ..core.errors import DiskFull, HastenError
from ..core.seams import Profile, Runtime, Technique
from ..core.trial import Fate, Trial
from ..core.units import format_seconds
from ..measure.latency import final_plan
from ..measure.quality import METRICS
from . import racing
from .building import Builder, right_runtime
from .contest import LOSSLESS, ORDERING, Contest
from .forecast import Physics, Promise, shares
from .judge import Judge
from .mixing import Mixer
from .planner import Incumbent, Outcome, Planner, Step, neighbours, variants
from .space import Space
from .students import Base, Students
from .study import Study
from .tryout import LIKELY, Tryout
from .workshop import Workshop

_SETTLED = 4  # contenders that race each other for the order in which the certify split is opened
_EXACT = 1e-3  # noise of what is counted rather than timed, on a logarithm
_AHEAD = 4  # candidates under way on other machines, the next one among them


@dataclass(frozen=True, kw_only=True)
class Explored:
    """start: the user's own program; reference: the fastest lossless one; contenders: what beats it and may be right, in the order in
    which they are to be certified."""

    start: Trial
    reference: Trial
    contenders: tuple[Trial, ...]


class Explorer:
    """One search over the space."""

    def __init__(self, shop: Workshop, study: Study, judge: Judge, profile: Profile, space: Space, start: Trial) -> None:
        self.shop, self.study, self.judge, self.profile, self.space = shop, study, judge, profile, space
        self.tryout = Tryout(shop, study, judge, profile.objective)
        self.builder, self.contest = Builder(shop, study, space, start), Contest(self.tryout, study)
        self.start, self.reference = start, start
        self.contenders: dict[str, Trial] = {}
        self.order: tuple[str, ...] = ()
        self.graphs: list[Candidate] = [start.candidate]
        self.physics = Physics()
        self.mixer = Mixer(shop, study, profile, judge.limit)
        self.students = Students(Base(module=start.candidate, graph=start.candidate))
        self._knobs: dict[type[Runtime], Runtime] = {}
        self._in_float: dict[str, float] = {}  # log speed-up of the float model by runtime and knobs
        self._built: dict[str, Candidate | None] = {}
        self._taken: set[str] = set()
        self._came_by: dict[str, Step] = {}  # the step that a trial came by
        self._noise = _EXACT
        self.planner: Planner | None = None

    # What is known -----------------------------------------------------------------------------------------------------

    def explored(self) -> Explored:
        """What is known so far: an answer at any moment."""
        place = {key: number for number, key in enumerate(self.order)}
        best = sorted(self.contenders.values(), key=lambda t: (place.get(t.id, len(place)), self.tryout.rank(t)))
        return Explored(start=self.start, reference=self.reference, contenders=tuple(best))

    @property
    def timed_batch(self) -> int:
        """Samples a call at which programs race."""
        return self.tryout.batch_size

    @staticmethod
    def planned(shop: Workshop, study: Study, profile: Profile, space: Space) -> Space:
        """The space with what the model's own graph tells: only what must be built to see the graph is built."""
        start = Trial(candidate=shop.workload.original, runtime=right_runtime(shop.workload.original.floor))
        with Judge(shop, start, METRICS["cosine"], 0.0) as judge:
            explorer = Explorer(shop, study, judge, profile, space, start)
            explorer.graphs = explorer.builder.closure(shop.workload.original, profile)
            explorer._look_at_graph()
        lines = [
            replace(line, verdict=_refusal(kind, explorer.profile) or "ok") if (kind := _named(space, line.name)) and line.ok else line
            for line in space.lines
        ]
        return replace(space, lines=tuple(lines))

    def reserve_seconds(self) -> float:
        """What the finish will need: settling the order, the final race, memory, throughput, and two programs over the certify split.

        At most half of what is left: on a busy machine everything takes long, and a finish without a search is worth little.
        """
        blocks = final_plan(self.study.budget_seconds).blocks
        per_sample, each = self.judge.seconds_per_sample, self.tryout.seconds_per_entrant
        slow, fast = per_sample.get(self.start.id, 0.0), per_sample.get(self.reference.id, 0.0)
        certify = self.judge.num_samples("certify") * (slow + fast)
        estimate = 1.2 * (6 * blocks * each + 16 * each + certify) + 5
        return min(estimate, 0.5 * self.study.left)

    # The lossless stage ------------------------------------------------------------------------------------------------

    def lossless(self) -> None:
        """Every lossless graph on every runtime with every knob; the simplest of the fastest becomes the reference."""
        self.study.stage("lossless", "the fastest program that changes nothing is what must be beaten")
        self.graphs = self.builder.closure(self.shop.workload.original, self.profile)
        self._look_at_graph()
        self.students = Students(Base(module=self.start.candidate, graph=self.graphs[-1]))
        good = {t.id: t for t in self._lossless_trials() if t.id == self.start.id or self.tryout.has_parity(t)}
        good, evidence, reference = self.contest.fastest(good, "lossless", LOSSLESS, leave_seconds=0.5 * self.study.budget_seconds)
        for trial in good.values():
            speed = None if evidence is None else racing.ratio(evidence, reference, trial.id, LOSSLESS)
            fate = Fate.START if trial.id == self.start.id else Fate.REFERENCE if trial.id == reference else Fate.LOST
            reason = trial.reason or ("" if fate is not Fate.LOST else "right, but another lossless program is as fast or faster")
            good[trial.id] = self.study.keep(trial.with_(fate=fate, reason=reason, speedup=speed))
        self.start, self.reference = good[self.start.id], good[reference]
        self.tryout.reference = self.reference
        if evidence is not None:
            self._noise = racing.spread(evidence, reference, LOSSLESS)
        self._learn_from(list(good.values()))
        if self.reference.runtime.floor is Floor.GRAPH:
            self.shop.priced_on = self.reference.runtime
        self.study.learn(f"the fastest lossless program is {self.reference.text}: {self.tryout.cost_text(self.reference)}")
        self.study.observer.best(f"{self.reference.text}, lossless")

    def _lossless_trials(self) -> list[Trial]:
        trials = {self.start.id: self.start}
        for graph in self.graphs:
            for kind in self.space.runtimes:
                knobs = [kind()] if kind.defines_right and kind.floor is Floor.MODULE else kind.space(self.profile)
                for runtime in knobs:
                    trial = Trial(candidate=graph, runtime=runtime)
                    if kind.floor is graph.floor and runtime.fits(graph, self.shop.target) is None:
                        trials.setdefault(trial.id, trial)
        return list(trials.values())

    def _look_at_graph(self) -> None:
        counts = self.shop.count(self.graphs[-1])
        self.profile = replace(self.profile, operators=counts["operators"], num_calibration=len(self.shop.workload.splits.calibrate))

    def _learn_from(self, raced: Sequence[Trial]) -> None:
        """The knobs that suited each runtime best, and how much slower it is than the reference."""
        relative = {}
        for trial in sorted(raced, key=self.tryout.rank, reverse=True):
            self._knobs[type(trial.runtime)] = trial.runtime
            self._in_float[trial.runtime.step().text] = math.log(trial.speedup.value) if trial.speedup else 0.0
            relative[trial.runtime.name] = 1.0 / trial.speedup.value if trial.speedup else 1.0
        self.physics = replace(self.physics, relative_time=relative)

    def _measure_physics(self) -> None:
        """Where the float model's time goes in each runtime, and what 8 bits are worth there: what forecasts stand on."""
        graph = self.graphs[-1]
        runtimes = [self._knobs.get(kind, kind()) for kind in self.space.runtimes if kind.floor is graph.floor]
        self.study.decide("profile", "where the time goes in each runtime, and what 8 bits are worth on this machine")
        try:
            kinds, ceilings = self.shop.layer_kinds(graph), self.shop.ceilings(runtimes)
            times = {r: self.shop.operator_times(Trial(candidate=graph, runtime=r)) for r in runtimes}
        except DiskFull:
            raise
        except HastenError as error:
            self.study.learn(f"no profile, so the techniques' own forecasts are used: {error}")
            return
        self.physics = replace(
            self.physics, shares={r.name: shares(operators, kinds) for r, operators in times.items() if operators},
            gains={r.name: ceilings.int8_ratio[r.step().text] for r in runtimes if r.step().text in ceilings.int8_ratio},
        )  # fmt: skip
        for name, found in self.physics.shares.items():
            told = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in sorted(found.items(), key=lambda kv: -kv[1])[:3])
            gains = ", ".join(f"{kind} {1 / ratio:.1f}x" for kind, ratio in self.physics.gains.get(name, {}).items())
            self.study.learn(f"{name}: {told}; 8 bits here: {gains}.")

    # The lossy stage ---------------------------------------------------------------------------------------------------

    def lossy(self, reserve_seconds: float) -> None:
        """What changes outputs, by what it promises per second, until nothing is worth its time or the budget says stop."""
        self.study.stage("techniques", "what changes outputs must be faster than the reference, and right")
        self._measure_physics()
        if any(kind.trains for kind in self.space.techniques):
            self._learn_pace()
        planner = self.planner = Planner(
            physics=self.physics, profile=self.profile, program_seconds=4 * self.tryout.seconds_per_entrant, noise=self._noise
        )  # fmt: skip
        while True:
            choice = planner.best(self._steps(), self._incumbent(), self.study.left - reserve_seconds, self.study.train_left)
            if choice is None and not self.mixer.look(self._incumbent().log_speedup, self.study.left - reserve_seconds):
                break
            if choice is not None:
                self._build_ahead(planner, self.study.left - reserve_seconds)
                planner.learn(choice[0], self._take(*choice))
        open_steps = sum(1 for _ in self._steps())
        worth = planner.best(self._steps(), self._incumbent(), math.inf, math.inf)
        self.study.decide("stop", "no step is worth its time" if worth is None else "the finish needs what is left of the budget")
        self.study.learn(f"{open_steps} steps were left, {max(0.0, self.study.left):.0f} s of the budget remain.")
        self._settle(reserve_seconds)

    def _learn_pace(self) -> None:
        pace = self.shop.pace()
        self.profile = replace(
            self.profile, epoch_seconds=pace.seconds, teacher_seconds=pace.teacher_seconds, asks_anew=pace.asks_anew
        )  # fmt: skip
        asked = "in every epoch" if pace.asks_anew else "once"
        self.study.learn(f"one pass over the train split takes {format_seconds(pace.seconds)}, "
                         f"and {format_seconds(pace.teacher_seconds)} for the teacher, {asked}.")  # fmt: skip

    def _build_ahead(self, planner: Planner, seconds_left: float) -> None:
        """Where other machines can build meanwhile: what the next steps need."""
        if self.shop.crew.builds_ahead:
            coming = planner.ranked(self._steps(), self._incumbent(), seconds_left, self.study.train_left)
            wanted = {s.build_key: (s.technique, s.candidate) for s in coming if s.technique is not None and s.build_key not in self._built}
            self.shop.prefetch(list(wanted.values())[:_AHEAD])

    def _steps(self) -> Iterator[Step]:
        """Everything that can be tried now."""
        return (step for step in self._offers() if step.key not in self._taken)

    def _offers(self) -> Iterator[Step]:
        """Everything that fits, taken or not."""
        for base in self.students.bases.values():
            for model in reversed(base.models):
                yield from self._applied(model, base)
        for trial in self.contenders.values():
            for runtime in neighbours(trial.runtime, self.profile):
                known = self._estimate(trial) + self._knobs_gain(trial.runtime, runtime)
                yield Step(
                    candidate=trial.candidate, technique=None, runtime=runtime, known_log_speedup=known,
                    reason="what suits float32 need not suit it",
                )  # fmt: skip
        yield from self.mixer.steps(self._incumbent().log_speedup)
        yield from self._rescues()

    def _knobs_gain(self, own: Runtime, other: Runtime) -> float:
        """What to expect of other knobs, on the log speed-up: half of what they did for the float model, which takes longer a call."""
        ours, theirs = (self._in_float.get(runtime.step().text) for runtime in (own, other))
        return 0.0 if ours is None or theirs is None else 0.5 * (theirs - ours)

    def _rescues(self) -> Iterator[Step]:
        kinds = [kind for kind in self.space.techniques if kind.rescues or kind.heals]
        unsure = {key for key, right in self.tryout.rightness.items() if right < LIKELY}
        made = [(self.study.trials[key], step) for key, step in self._came_by.items() if key in unsure]
        return self.students.rescues(kinds, made, self.profile, self.judge.limit)

    def _applied(self, candidate: Candidate, base: Base) -> Iterator[Step]:
        """Every technique that changes outputs on `candidate`, the graph or the module of `base`, in every runtime."""
        kinds = [k for k in self.space.techniques if not k.rescues and not k.heals & candidate.facts]
        profile = base.profile(self.profile)
        for technique in variants(kinds, profile, candidate):
            for kind in self.space.runtimes:
                runtime = self._knobs.get(kind, kind())
                step = Step(
                    candidate=candidate, technique=technique, runtime=runtime, base_log_speedup=base.log_factor, base_right=base.right,
                    profile=profile,
                )  # fmt: skip
                known = self._built.get(step.build_key, step.planned)
                if kind.floor is Floor.GRAPH and known is not None and runtime.fits(known, self.shop.target) is None:
                    yield step

    def _take(self, step: Step, promise: Promise) -> Outcome:
        """One step: build, run, time, judge."""
        self._taken.add(step.key)
        began = self.shop.worked_seconds
        decision = self.study.decide(step.text, f"promises {promise.text}" + (f"; {step.reason}" if step.reason else ""), promise.to_json())
        candidate = self._candidate(step)
        built = self.shop.worked_seconds
        speedup = right = None
        if candidate is not None:
            trial, right = self.tryout.run(
                Trial(candidate=candidate, runtime=step.runtime), math.exp(self._incumbent().log_speedup), promise.low
            )
            speedup = self.tryout.gain(trial)
            self._came_by[trial.id] = step
            self.mixer.note(step, trial, speedup, right)
            self.students.note(step, trial, speedup, right, self.physics.relative_time.get(step.runtime.name, 1.0))
            if right:
                self.contenders[trial.id] = trial
        decision.outcome = {"speedup": speedup, "right": right, "seconds": round(self.shop.worked_seconds - began, 3)}
        return Outcome(speedup=speedup, right=right, build_seconds=built - began, program_seconds=self.shop.worked_seconds - built)

    def _candidate(self, step: Step) -> Candidate | None:
        if step.technique is None:
            return step.candidate
        if step.build_key not in self._built:
            began = self.shop.worked_seconds
            made = self.builder.build(step.technique, step.candidate)
            if step.technique.trains:
                self.study.trained(self.shop.worked_seconds - began)
            if made is not None and made.floor is Floor.MODULE:
                self.students.built(step.build_key, made)
                made = self.builder.closure(made, self.profile)[-1]
            if made is not None and step.then is not None and made.floor is Floor.GRAPH:
                made = self.builder.build(step.then, made)
            self._built[step.build_key] = None if made is None or made.floor is Floor.MODULE else made
        return self._built[step.build_key]

    def _incumbent(self) -> Incumbent:
        """Of the contenders that are likely to pass, and of the reference."""
        right = self.tryout.rightness
        likely = [t for t in self.contenders.values() if right[t.id] >= LIKELY]
        none_passes = math.prod(1 - max(right[t.id] for t in family) for family in self._families(likely))
        return Incumbent(
            log_speedup=max([0.0, *map(self._estimate, likely)]), right=1 - none_passes if likely else 1.0,
            safe_log_speedup=max([0.0, *(self._estimate(t) for t in likely if right[t.id] == 1)]),
            untrained_log_speedup=max([0.0, *(self._estimate(t) for t in likely if self._training_of(t) is None)]),
        )  # fmt: skip

    def _families(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """Programs that pass or fail together: those of one trained model, else those of one technique."""
        found: dict[str, list[Trial]] = {}
        for trial in trials:
            found.setdefault(self._training_of(trial) or trial.candidate.lineage[-1].name, []).append(trial)
        return list(found.values())

    def _training_of(self, trial: Trial) -> str | None:
        """The first step of its recipe that trained, None without one."""
        trains = {kind.name for kind in self.space.techniques if kind.trains}
        return next((step.text for step in trial.candidate.lineage if step.name in trains), None)

    def _estimate(self, trial: Trial) -> float:
        """Of a contender's log speed-up."""
        assert self.planner is not None
        return self.planner.estimate(self._came_by[trial.id])

    def _settle(self, reserve_seconds: float) -> None:
        """The order in which contenders will be certified: who is fastest, in a race of their own with fresh processes."""
        best = sorted(self.contenders.values(), key=self.tryout.rank)[:_SETTLED]
        if len(best) > 1 and self.tryout.races:
            self.study.decide(f"racing {len(best)} contenders", "the order in which they are certified is fixed before certify is opened")
            trials, leave = {t.id: t for t in best}, 0.8 * reserve_seconds
            raced, evidence, winner = self.contest.fastest(trials, "contenders", ORDERING, leave_seconds=leave)
            self.contenders |= raced
            if evidence is not None:
                gaps = racing.gaps_to(winner, evidence)
                self.order = tuple(sorted(raced, key=lambda key: (key != winner, gaps[key])))


def _named(space: Space, name: str) -> type[Technique] | None:
    return next((kind for kind in space.techniques if kind.name == name), None)


def _refusal(kind: type[Technique], profile: Profile) -> str | None:
    first = next(kind.space(profile), None)
    return "no variant of it fits this model" if first is None else first.fits(None, profile)
