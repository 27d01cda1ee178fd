"""The finish: a final race with fresh processes, and the split that nobody looked at before.

At most three finalists are chosen, in an order fixed by what the search knew. Each gets an equal share of the one-sided
5 % error rate (Bonferroni), so that the chance of certifying any candidate that loses more than the limit stays below
5 % however the search chose them. They are looked at in their order, and the first that keeps every limit is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.errors import DiskFull, HastenError
from ..core.job import LimitsSection, SearchSection
from ..core.measurement import Interval, Measurement, Verdict
from ..core.trial import Fate, Trial
from ..measure.latency import Plan, Race, final_plan
from ..measure.quality import Metric
from ..measure.statistics import noninferiority, ratio_interval
from .explore import Explored
from .judge import Judge
from .study import Study
from .workshop import Workshop

MAX_FINALISTS = 3
ALPHA = 0.05
_THROUGHPUT = Plan(rounds=10, min_runs=1)
_BATCHES = (1, 4, 16, 64)
_TWIN = "twin"


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What the finish found.

    verdict: passed | reference | undecided | failed | unfinished; answer: None only where nothing keeps the limits; over_start,
    over_lossless: speed-ups of the answer in the final race; noise_floor: the reference against its own twin.
    """

    verdict: str
    reason: str
    start: Trial
    reference: Trial
    answer: Trial | None
    finalists: tuple[Trial, ...]
    over_start: Interval
    over_lossless: Interval
    noise_floor: Interval
    outcomes: tuple[np.ndarray, np.ndarray] | None = None


def choose_finalists(explored: Explored, margin_of: Callable[[Interval], float]) -> list[Trial]:
    """The order in which the certify split is opened: fastest first among those whose drop so far suggests that they pass,
    one a candidate and runtime (other knobs compute the same), then the rest. The last place is for the one that is safest: the fastest
    may be brothers, which pass or fail together. margin_of: `Judge.margin`."""

    def margin(trial: Trial) -> float:
        return -math.inf if trial.drop is None else margin_of(trial.drop)

    distinct: dict[tuple[str, str], Trial] = {}
    for trial in explored.contenders:
        distinct.setdefault((trial.candidate.id, trial.runtime.name), trial)
    chosen = sorted(distinct.values(), key=lambda t: margin(t) < 0)  # stable: the order of speed is kept
    first, rest = chosen[: MAX_FINALISTS - 1], chosen[MAX_FINALISTS - 1 :]
    safest = max(rest, key=margin, default=None)  # of equals the fastest
    return first if safest is None else [*first, safest]


def cannot_be_proved(metric: Metric, num_samples: int, limit: float) -> str | None:
    """One sentence where so few samples are kept for the proof that no answer whose outputs change could pass; else None."""
    if metric.kind != "rate":
        return None
    perfect = np.ones(num_samples)
    least = metric.drop(perfect, perfect, alpha=ALPHA).high
    if least <= limit:
        return None
    return (
        f"certify holds {num_samples:,} samples: even without a single difference only a loss of less than {least:.2g} points could be "
        f"proved, and limits.max_drop is {limit:g}. No answer whose outputs change can be certified: give more data, or allow more"
    )  # fmt: skip


def provisional(explored: Explored) -> Finish:
    """What is known before the search has ended: the fastest lossless program is the answer so far."""
    start, reference = explored.start, explored.reference
    unknown = Interval(value=float("nan"), low=float("nan"), high=float("nan"))
    return Finish(
        verdict="unfinished", reason="the search has not ended; this is the fastest lossless program so far",
        start=start, reference=reference, answer=reference, finalists=(),
        over_start=_inverse(start.speedup) if start.speedup else unknown,
        over_lossless=Interval(value=1.0, low=1.0, high=1.0), noise_floor=unknown,
    )  # fmt: skip


class Finisher:
    """Measures the finalists afresh and decides. batch_size: samples a call of the final race."""

    def __init__(
        self, shop: Workshop, study: Study, judge: Judge, *, limits: LimitsSection, search: SearchSection, batch_size: int
    ) -> None:  # fmt: skip
        self.shop, self.study, self.judge, self.batch_size = shop, study, judge, batch_size
        self.limits, self.objective, self.allow_undecided = limits, search.objective, search.allow_undecided

    def finish(self, explored: Explored) -> Finish:
        """The answer. Raises HastenError where the final measurements themselves fail."""
        finalists = choose_finalists(explored, self.judge.margin)
        race, failed = self._final_race([explored.start, explored.reference, *finalists], explored.reference)
        broken = [t.with_(fate=Fate.FAILED, reason=failed[t.id]) for t in finalists if t.id in failed]
        finalists = [t for t in finalists if t.id not in failed]
        noise = _ratio(race, explored.reference.id, _TWIN)
        self.study.learn(f"A/A: the reference against itself gives {noise.value:.3f} ({noise.low:.3f} to {noise.high:.3f}).")
        start, reference = (self._with_costs(t, race) for t in (explored.start, explored.reference))
        finalists = [self._with_costs(t, race).with_(speedup=_ratio(race, reference.id, t.id)) for t in finalists]
        self.study.stage("certification", "on the split that nobody has looked at, in an order that was fixed before")
        judged, outcomes = self._certify(finalists, reference, noise)
        answer, verdict, reason = self._decide(judged, reference)
        told = answer or reference
        return Finish(
            verdict=verdict, reason=reason, start=start, reference=reference, answer=answer, finalists=(*judged, *broken),
            over_start=_ratio(race, start.id, told.id), over_lossless=_ratio(race, reference.id, told.id),
            noise_floor=noise, outcomes=outcomes.get(told.id),
        )  # fmt: skip

    def complete(self, finish: Finish) -> Finish:
        """The finish with throughputs, and with every metric of start and answer where they were run over certify."""
        told = [t for t in (finish.start, finish.reference, finish.answer) if t is not None]
        self.study.stage("throughput", "samples per second at several batch sizes")
        known = {t.id: t for t in self.throughput(list({t.id: t for t in told}.values()))}
        if finish.outcomes is not None:
            for trial in (finish.start, finish.answer):
                if trial is not None:
                    known[trial.id] = known[trial.id].with_(quality=self.judge.metrics(trial, "certify"))
        return replace(
            finish, start=known[finish.start.id], reference=known[finish.reference.id],
            answer=known[finish.answer.id] if finish.answer else None,
            finalists=tuple(known.get(t.id, t) for t in finish.finalists),
        )  # fmt: skip

    def throughput(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials with samples per second at each batch size, interleaved: their model must have a free batch axis."""
        known = {t.id: t for t in trials}
        fixed = self.shop.workload.original.signature.batch is not None
        for batch in () if fixed else _BATCHES:
            if batch > self.judge.num_samples("select"):
                break
            if self.study.left < 0:
                self.study.learn(f"throughput from batch {batch} on was not measured: the budget is used up")
                break
            self.study.decide(f"throughput at batch {batch}", "the best batch differs from model to model")
            try:
                race = self.shop.race(list(known.values()), _THROUGHPUT, batch_size=batch, label="throughput")
            except DiskFull:
                raise
            except HastenError as error:
                self.study.learn(f"batch {batch} failed: {error}")
                break
            for key in known:
                known[key] = known[key].measured(_as_throughput(race.latency[key], batch))
        return [known[t.id] for t in trials]

    def _final_race(self, trials: Sequence[Trial], reference: Trial) -> tuple[Race, dict[str, str]]:
        distinct = list({t.id: t for t in trials}.values())
        plan = final_plan(self.study.budget_seconds)
        self.study.stage("final race", "fresh processes and fresh measurements, the reference twice to know the noise")
        self.study.decide(f"final race of {len(distinct)} programs and a twin", f"{plan.blocks} sets of fresh processes")
        needed = {t.id for t in trials[:2]}
        return self.shop.race_survivors(distinct, plan, needed=needed, batch_size=self.batch_size, twin_of=reference, label="final")

    def _with_costs(self, trial: Trial, race: Race) -> Trial:
        self.study.decide(f"peak memory of {trial.text}", "in a process that does nothing else")
        trial = trial.measured(*race.of(trial.id))
        try:
            return trial.measured(self.shop.memory(trial))
        except DiskFull:
            raise
        except HastenError as error:
            self.study.learn(f"not measured: {error}")
            return trial

    def _certify(
        self, finalists: Sequence[Trial], reference: Trial, noise: Interval
    ) -> tuple[list[Trial], dict[str, tuple[np.ndarray, np.ndarray]]]:
        """The finalists with their verdicts. After one has passed, the others are not looked at."""
        alpha = ALPHA / max(1, len(finalists))
        judged: list[Trial] = []
        outcomes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for trial in finalists:
            if any(t.fate is Fate.ANSWER for t in judged):
                judged.append(
                    trial.with_(fate=Fate.PROMISING, reason=f"{trial.reason}; not certified, since the answer was found before it")
                )
                continue
            if why_not := self._too_slow(trial, reference, noise) or self.over_limits(trial):
                judged.append(trial.with_(fate=Fate.LOST, reason=why_not))
                continue
            self.study.decide(f"certify {trial.text}", f"at error rate {alpha:.3g}, its share of {ALPHA:g}")
            try:
                pair = self.judge.rows(trial, "certify")
            except DiskFull:
                raise
            except HastenError as error:
                judged.append(trial.with_(fate=Fate.FAILED, reason=str(error)))
                continue
            outcomes[trial.id] = pair
            verdict = self._verdict(pair, alpha)
            fate = {"passed": Fate.ANSWER, "failed": Fate.LOST, "undecided": Fate.PROMISING}[verdict.outcome]
            judged.append(trial.with_(fate=fate, reason=verdict.reason, verdict=verdict))
            self.study.learn(f"{trial.text}: {verdict.reason}")
        return judged, outcomes

    def _verdict(self, pair: tuple[np.ndarray, np.ndarray], alpha: float) -> Verdict:
        metric, limit = self.judge.metric, self.judge.limit
        drop = metric.drop(*pair, alpha=alpha, seed=self.shop.seed)
        needed = metric.needed(*pair, limit, alpha=alpha, seed=self.shop.seed)
        return noninferiority(drop, limit, alpha=alpha, needed=needed, unit=metric.loss_unit)

    def _decide(self, judged: Sequence[Trial], reference: Trial) -> tuple[Trial | None, str, str]:
        for trial in judged:
            if trial.fate is Fate.ANSWER:
                return trial, "passed", trial.reason
        undecided = next((t for t in judged if t.verdict and t.verdict.outcome == "undecided"), None)
        if undecided is not None and self.allow_undecided:
            return undecided.with_(fate=Fate.ANSWER), "undecided", undecided.reason
        if why_not := self.over_limits(reference):
            return None, "failed", f"nothing keeps the limits; of the fastest lossless program: {why_not}"
        told = f"; promising: {undecided.text}: {undecided.reason}" if undecided else ""
        return reference, "reference", f"nothing beats the fastest lossless program within the limits, so that is the answer{told}"

    def _too_slow(self, trial: Trial, reference: Trial, noise: Interval) -> str | None:
        """Do no harm: better than the reference by more than the noise, or why not."""
        if self.objective in ("size", "memory"):
            metric = "size" if self.objective == "size" else "peak_memory"
            ours, theirs = trial.latest(metric), reference.latest(metric)
            better = ours is not None and theirs is not None and ours.interval().value < 0.98 * theirs.interval().value
            return None if better else f"not smaller than the reference in {metric.replace('_', ' ')}"
        floor = max(noise.high, 1 / noise.low) if noise.low > 0 else float("inf")
        if self.objective == "energy":
            return _no_less_energy(trial, reference, floor)
        speedup = trial.speedup
        if speedup is None or not (speedup.low > 1 and speedup.value > floor):
            told = f"{speedup.value:.2f}x ({speedup.low:.2f} to {speedup.high:.2f})" if speedup else "not measured"
            return f"not faster than the reference beyond the noise: {told}, noise up to {floor:.3f}x"
        return None

    def over_limits(self, trial: Trial) -> str | None:
        """Which limit a trial breaks, or None."""
        latency, size, memory = (trial.latest(m) for m in ("latency", "size", "peak_memory"))
        if self.limits.latency_ms is not None and latency is not None:
            p95, bound = latency.percentile(95), latency.percentile_bound(95)
            if p95 is None or bound is None:
                return f"latency: {latency.num_moments} moments of the machine are too few to own a 95th percentile"
            if bound * 1e3 > self.limits.latency_ms:
                return (
                    f"p95 latency is {p95 * 1e3:.3g} ms, at most {bound * 1e3:.3g} at 95 %, over the {self.limits.latency_ms:g} ms allowed"
                )
        if self.limits.size_mb is not None and size is not None and size.samples[0] > self.limits.size_mb * 1e6:
            return f"size is {size.samples[0] / 1e6:.3g} MB, over the {self.limits.size_mb:g} MB allowed"
        if self.limits.memory_mb is not None and memory is not None and memory.samples[0] > self.limits.memory_mb * 1e6:
            return f"peak memory is {memory.samples[0] / 1e6:.3g} MB, over the {self.limits.memory_mb:g} MB allowed"
        if self.limits.energy_mj is not None and (energy := trial.latest("energy")) is not None:
            high = energy.interval().high * 1e3
            if high > self.limits.energy_mj:
                label = energy.method["label"]
                return f"energy is up to {high:.3g} mJ a call ({label}), over the {self.limits.energy_mj:g} mJ allowed"
        return None


def _no_less_energy(trial: Trial, reference: Trial, floor: float) -> str | None:
    """Why a trial does not take less energy than the reference beyond the noise, or None. Both ran in the same race."""
    ours, theirs = trial.latest("energy"), reference.latest("energy")
    if ours is None or theirs is None:
        return "its energy is unknown"
    ratio = ratio_interval(theirs.round_medians(), ours.round_medians(), blocks=np.asarray(ours.method["block_of_round"]))
    if ratio.low > 1 and ratio.value > floor:
        return None
    told = f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}), noise up to {floor:.3f}x"
    return f"takes no less energy than the reference beyond the noise: {told}"


def _inverse(ratio: Interval) -> Interval:
    return replace(ratio, value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)


def _ratio(race: Race, over: str, of: str) -> Interval:
    """How many times faster `of` is than `over` in this race."""
    if over == of:
        return Interval(value=1.0, low=1.0, high=1.0, n=len(race.block_of_round))
    slow, fast = race.latency[over].round_medians(), race.latency[of].round_medians()
    return ratio_interval(slow, fast, blocks=np.asarray(race.block_of_round))


def _as_throughput(latency: Measurement, batch: int) -> Measurement:
    return replace(
        latency, metric="throughput", unit="samples/s", samples=tuple(batch / s for s in latency.samples),
        method={**latency.method, "batch_size": batch},
    )  # fmt: skip
