"""How often the statements that hasten makes are true, on machines and candidates whose truth is known.

    make bench-search-coverage
    python benchmarks/search_coverage.py --runs 200 --only speed drops

Races are simulated (hasten.testing.simulated_race: process luck, drift, clock steps, neighbours, interruptions), outcomes are drawn
from known probabilities; what judges them is the code that `hasten optimize` runs. Nothing is timed, so the machine may be busy.
About 6 minutes on one core; with --only, the other figures stay as they were.
Figures without a goal lie outside of what the statements claim; they show where the limits are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from common import Figures, figure, finish, known_figures
from scipy import stats

from hasten.core.candidate import Candidate, Floor, Step
from hasten.core.job import SearchSection
from hasten.core.measurement import Interval, Measurement
from hasten.core.signature import Signature
from hasten.core.trial import Trial
from hasten.measure.latency import Plan, Race, final_plan
from hasten.measure.quality import METRICS
from hasten.measure.sequential import Look, Sequential
from hasten.measure.statistics import aggregate_drop, error_increase, mean_drop, rate_drop, ratio_interval
from hasten.runtimes.null import Null
from hasten.search import racing
from hasten.search.certify import ALPHA, Finisher, choose_finalists
from hasten.search.explore import Explored
from hasten.search.judge import Judge
from hasten.testing import SCENES, Noise, SimulatedRace, simulated_race

HOLDS, ERRS = 0.94, 0.05
BASE_SECONDS, FASTER = 0.002, 1.25
ENTRANTS = {**dict.fromkeys(("reference", "twin", "equal1", "equal2", "equal3"), BASE_SECONDS), "faster": BASE_SECONDS / FASTER}
PLANS = {"5_blocks": final_plan(300.0), "3_blocks": final_plan(60.0)}
BENCH = Plan(blocks=3, rounds=110, block_seconds=60.0)  # what `hasten bench --seconds 22` races


def main() -> None:
    parser = argparse.ArgumentParser(description="how often hasten's statements are true")
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="simulated runs a figure (default: %(default)s)")
    parser.add_argument("--only", choices=SECTIONS, nargs="*", help="sections (default: all)")
    arguments = parser.parse_args()
    figures: Figures = known_figures("search-coverage") if arguments.only else {}
    for name in arguments.only or SECTIONS:
        for key, one in SECTIONS[name](arguments.runs):
            figures[f"{name}.{key}"] = one
            print(f"  {name}.{key}: {one['value']}", flush=True)
    missed = [key for key, one in figures.items() if one["met"] is False and key != "goals_missed"]
    finish("search-coverage", {**figures, "runs": figure(arguments.runs), "goals_missed": figure(len(missed), at_most=0)})


def share(hits: list[bool] | np.ndarray, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, object]:
    """How often something was true, with Wilson's interval for the number of simulated runs."""
    wilson = stats.binomtest(int(np.sum(hits)), len(hits)).proportion_ci(method="wilson")
    return figure(float(np.mean(hits)), wilson.low, wilson.high, at_least=at_least, at_most=at_most)


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def half_width(intervals: list[Interval]) -> dict[str, object]:
    """Median over the runs of half the interval's width, as a share of the value."""
    return figure(float(np.median([np.log(i.high / i.low) / 2 for i in intervals])))


Named = Iterator[tuple[str, dict[str, object]]]

# Races ----------------------------------------------------------------------------------------------------------------


def simulated(plan: Plan, scene: str, runs: int, entrants: dict[str, float] = ENTRANTS) -> Iterator[SimulatedRace]:
    rng = np.random.default_rng(20_261_125)
    for _ in range(runs):
        yield simulated_race(entrants, plan, SCENES[scene], rng, twins={"twin": "reference"})


def speed(runs: int) -> Named:
    """The final race: speed-ups, A/A, do no harm, latencies."""
    for label, plan in PLANS.items():
        for scene in SCENES:
            ratios, twins, harmed, latencies = [], [], [], []
            for one in simulated(plan, scene, runs):
                blocks = np.array(one.race.block_of_round)
                rounds = {key: m.round_medians() for key, m in one.race.latency.items()}
                over = {key: ratio_interval(rounds["reference"], rounds[key], blocks=blocks) for key in rounds if key != "reference"}
                ratios.append(over["faster"])
                twins.append(over["twin"])
                harmed.append([declared_faster(over[f"equal{i}"], over["twin"]) for i in (1, 2, 3)])
                latencies.append((one.race.latency["reference"].interval(), one.median_seconds["reference"]))
            yield f"{label}.{scene}.ratio_holds", share([holds(r, FASTER) for r in ratios], at_least=HOLDS)
            yield f"{label}.{scene}.ratio_half_width", half_width(ratios)
            yield f"{label}.{scene}.twin_holds_one", share([holds(r, 1.0) for r in twins], at_least=HOLDS)
            yield f"{label}.{scene}.one_equal_declared_faster", share([h[0] for h in harmed], at_most=ERRS / 2)
            yield f"{label}.{scene}.any_of_three_equals_declared_faster", share([any(h) for h in harmed], at_most=ERRS)
            yield f"{label}.{scene}.latency_holds", share([holds(i, truth) for i, truth in latencies], at_least=HOLDS)
            yield f"{label}.{scene}.latency_half_width", half_width([i for i, _ in latencies])


def declared_faster(speedup: Interval, noise: Interval) -> bool:
    """The rule of the finish."""
    judge = Finisher.__new__(Finisher)
    judge.objective = SearchSection().objective
    return judge._too_slow(replace(TRIALS[0], speedup=speedup), TRIALS[1], noise) is None


def quick(runs: int) -> Named:
    """One set of processes: the statements speak for those processes."""
    for scene in SCENES:
        ratios, latencies = [], []
        for one in simulated(Plan(), scene, runs, {"reference": BASE_SECONDS, "faster": BASE_SECONDS / FASTER}):
            slow, fast = (one.race.latency[key].round_medians() for key in ("reference", "faster"))
            luck = {key: one.process_seconds[key][0] / one.median_seconds[key] for key in ("reference", "faster")}
            ratios.append((ratio_interval(slow, fast), FASTER * luck["reference"] / luck["faster"]))
            latencies.append((one.race.latency["reference"].interval(), one.process_seconds["reference"][0]))
        yield f"{scene}.ratio_of_these_processes_holds", share([holds(i, t) for i, t in ratios], at_least=HOLDS)
        yield f"{scene}.ratio_of_all_processes_holds", share([holds(i, FASTER) for i, _ in ratios])
        yield f"{scene}.latency_of_this_process_holds", share([holds(i, t) for i, t in latencies], at_least=HOLDS)


def percentiles(runs: int) -> Named:
    """Upper bounds of those that are shown; the share of races that own them; and that none is shown without 59 or 299 moments."""
    races = {**PLANS, "bench": BENCH, "quick": Plan(), "slow_5_blocks": PLANS["5_blocks"]}
    for label, plan in races.items():
        for scene in SCENES:
            entrants = {k: (50 if label.startswith("slow") else 1) * s for k, s in list(ENTRANTS.items())[:4]}
            found: dict[float, list[bool]] = {95: [], 99: []}
            lone = unowned = 0
            for one in simulated(plan, scene, runs if label in PLANS else runs // 4, entrants):
                latency, calls = one.race.latency["reference"], one.calls("reference", 20_000)
                for q in found:
                    shown, bound = latency.percentile(q), latency.percentile_bound(q)
                    unowned += shown is not None and too_few(latency, q)
                    lone += (shown is None) != (bound is None)
                    if bound is not None:
                        found[q].append(bool(bound >= np.percentile(calls, q)))
            yield f"{label}.{scene}.shown_without_the_samples", figure(unowned + lone, at_most=0)
            for q, good in found.items():
                if good:
                    yield f"{label}.{scene}.p{q}_bound_holds", share(good, at_least=HOLDS)


def too_few(latency: Measurement, q: float) -> bool:
    """Whether more than 5 % of such races see nothing beyond the true percentile, by binomial count."""
    return bool(stats.binom.pmf(0, latency.num_moments, 1 - q / 100) > 0.05)


RIVALS = {"a": 1.1, "b": 1.04, "c": 1.5, "d": 1.0, "e": 1.01, "f": 1.2, "g": 1.03, "h": 2.0}
"""Times of eight programs, in units of the fastest; "d" and "e" are within the zone of 2 %, "g" and "b" just outside."""


def races(runs: int) -> Named:
    """Elimination: how often what it calls sure is beyond the zone, and what share of timing everybody equally it spends."""
    rules, plan = racing.Rules(), Plan(rounds=16, block_seconds=6.0)
    for scene in SCENES:
        rng = np.random.default_rng(20_261_128)
        wrong, near, survived, sure, spent, blocks = [], [], [], [], [], []
        for _ in range(runs):
            order = [str(key) for key in rng.permutation(list(RIVALS))]

            def block(keys: Sequence[str], number: int, rng: np.random.Generator = rng, noise: Noise = SCENES[scene]) -> Race:
                return simulated_race({key: BASE_SECONDS * RIVALS[key] for key in keys}, plan, noise, rng).race

            result, evidence = racing.run(order, block, rules)
            near.append(RIVALS[result.winner] <= 1 + rules.zone)
            survived.append(any(RIVALS[key] <= 1 + rules.zone for key in result.alive))
            sure.append(result.sure)
            wrong.append(result.sure and not near[-1])
            spent.append(sum(len(b) for b in evidence.blocks) / (len(RIVALS) * len(evidence.blocks)))
            blocks.append(len(evidence.blocks))
        yield f"{scene}.sure_and_beyond_the_zone", share(wrong, at_most=rules.error)
        yield f"{scene}.one_within_the_zone_survives", share(survived, at_least=1 - rules.error)
        yield f"{scene}.winner_within_the_zone", share(near)
        yield f"{scene}.sure", share(sure)
        yield f"{scene}.blocks", figure(float(np.mean(blocks)))
        yield f"{scene}.share_of_timing_everybody", figure(float(np.mean(spent)))


# Drops ----------------------------------------------------------------------------------------------------------------

SIZES = (300, 1000, 3000, 10_000)


def drops(runs: int) -> Named:
    """One-sided bounds, each at 95 %."""
    rng = np.random.default_rng(20_261_126)
    for n in SIZES:
        uppers, lowers = [], []
        for lost, won in [(0.0, 0.0), (0.005, 0.0), (0.01, 0.005), (0.02, 0.02), (0.05, 0.03), (0.1, 0.02)]:
            counts = rng.multinomial(n, [lost, won, 1 - lost - won], size=5 * runs)
            found = [rate(int(b), int(c), n, ALPHA) for b, c, _ in counts]
            uppers.append(share([d.high >= 100 * (lost - won) for d in found])["value"])
            lowers.append(share([d.low <= 100 * (lost - won) for d in found])["value"])
        yield f"rate.{n}.upper_holds_worst_of_6", figure(min(uppers), at_least=HOLDS)
        yield f"rate.{n}.lower_holds_worst_of_6", figure(min(lowers), at_least=HOLDS)
    for name, goal, truth, draw in MEANS:
        for n in SIZES[:3]:
            found = [draw(rng, n) for _ in range(runs)]
            yield f"{name}.{n}.upper_holds", share([d.high >= truth for d in found], at_least=goal)
            yield f"{name}.{n}.lower_holds", share([d.low <= truth for d in found], at_least=goal)
    yield from macro_f1(rng, 400, runs)


@cache
def rate(lost: int, won: int, n: int, alpha: float) -> Interval:
    """The drop of a rate from its counts: it depends on nothing else."""
    reference, candidate = np.ones(n), np.ones(n)
    candidate[:lost], reference[lost : lost + won] = 0, 0
    return rate_drop(reference, candidate, alpha=alpha)


def fidelity(draw: Callable[[np.random.Generator, int], np.ndarray]) -> Callable[[np.random.Generator, int], Interval]:
    return lambda rng, n: mean_drop(np.ones(n), 1 - draw(rng, n), alpha=ALPHA)


def errors(draw: Callable[[np.random.Generator, int], np.ndarray]) -> Callable[[np.random.Generator, int], Interval]:
    def one(rng: np.random.Generator, n: int) -> Interval:
        reference = draw(rng, n)
        return error_increase(reference, reference * np.exp(rng.normal(0, 0.4, n)), alpha=ALPHA)

    return one


# name, goal, true drop, one run. The heavy ones have tails that a few hundred samples cannot show: their figures are limits, not promises.
MEANS: list[tuple[str, float | None, float, Callable[[np.random.Generator, int], Interval]]] = [
    ("mean_lognormal", HOLDS, 100 * np.exp(-4.5), fidelity(lambda rng, n: rng.lognormal(-5, 1, n))),
    ("mean_gamma", HOLDS, 0.5, fidelity(lambda rng, n: rng.gamma(0.5, 0.01, n))),
    ("mean_sparse", HOLDS, 0.6, fidelity(lambda rng, n: (rng.random(n) < 0.03) * rng.exponential(0.2, n))),
    ("mean_symmetric", HOLDS, 0.3, fidelity(lambda rng, n: 0.003 + 0.02 * rng.normal(size=n))),
    ("error_exponential", HOLDS, 100 * (np.exp(0.08) - 1), errors(lambda rng, n: rng.exponential(1, n))),
    ("mean_lognormal_heavy", None, 100 * np.exp(-5 + 1.125), fidelity(lambda rng, n: rng.lognormal(-5, 1.5, n))),
    ("error_heavy", None, 100 * (np.exp(0.08) - 1), errors(lambda rng, n: rng.exponential(1, n) ** 1.5)),
]


def macro_f1(rng: np.random.Generator, n: int, runs: int) -> Named:
    metric, num_classes = METRICS["f1"], 5

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.choice(num_classes, size, p=[0.3, 0.3, 0.2, 0.1, 0.1])
        reference = np.where(rng.random(size) < 0.9, labels, rng.integers(0, num_classes, size))
        candidate = np.where(rng.random(size) < 0.03, rng.integers(0, num_classes, size), reference)
        return np.stack([labels, reference], 1), np.stack([labels, candidate], 1)

    everybody = draw(4_000_000)
    truth = 100 * (metric.resampled(everybody[0]) - metric.resampled(everybody[1]))
    found = [aggregate_drop(metric.resampled, *draw(n), alpha=ALPHA, seed=i, num_resamples=800) for i in range(runs)]
    yield f"f1.{n}.upper_holds", share([d.high >= truth for d in found], at_least=HOLDS)
    yield f"f1.{n}.lower_holds", share([d.low <= truth for d in found], at_least=HOLDS)


# A whole search -------------------------------------------------------------------------------------------------------

SIGNATURE = Signature(inputs=(), outputs=())
ORIGINAL = Candidate(floor=Floor.GRAPH, path=Path("simulated"), signature=SIGNATURE, lineage=(Step(name="simulated"),))
TRIALS = [Trial(candidate=ORIGINAL.then(Step(name=f"technique{i}"), Path("simulated")), runtime=Null()) for i in range(20)]


@dataclass(frozen=True)
class Splits:
    """What `choose_finalists` asks a judge. limit: in points."""

    select: int
    certify: int
    limit: float

    def num_samples(self, split: str) -> int:
        return int(getattr(self, split))

    margin = Judge.margin


def search(runs: int) -> Named:
    """Quality through the whole search: looks on select, choice of finalists, certification. Speed is granted to everybody.

    Five times as many runs as elsewhere: what is promised (5 %) is what is spent, so chance must not decide whether it is met.
    """
    for splits in (Splits(3000, 6000, 0.5), Splits(600, 1200, 1.0)):
        limit, label = splits.limit / 100, f"certify_{splits.certify}"
        fields = {
            "one_at_the_limit": [limit],
            "one_slightly_over": [1.1 * limit],
            "20_at_the_limit": [limit] * 20,
            "20_slightly_over": [1.1 * limit] * 20,
            "3_at_the_limit_of_20": [limit] * 3 + [limit + 0.03] * 17,
        }
        for won in (0.0, 0.005, 0.02):
            for number, (name, true_drops) in enumerate(fields.items()):
                rng = np.random.default_rng([20_261_127, splits.certify, int(1e4 * won), number])  # of its own: figures stand alone
                wrong = [certified(splits, true_drops, won, rng) is not None for _ in range(5 * runs)]
                yield f"{label}.won_{won:g}.{name}.certified", share(wrong, at_most=ERRS)
        good = [certified(splits, [0.0] * 5 + [limit] * 15, 0.001, rng) for _ in range(runs)]
        yield f"{label}.5_harmless_15_at_the_limit.answer_found", share([g is not None for g in good])
        yield f"{label}.5_harmless_15_at_the_limit.wrong_answer", share([g is not None and g > 0 for g in good], at_most=ERRS)


def sizes(runs: int) -> Named:
    """The same for candidates exactly at the limit, added up over all outcomes instead of drawn: certify alone, without select."""
    for n, limit in ((6000, 0.005), (1200, 0.01)):
        for won in (0.0, 0.005, 0.02):
            for finalists in (1, 3):
                rate_ = finalists * passing(n, limit, won, ALPHA / finalists)
                yield f"certify_{n}.won_{won:g}.{finalists}_at_the_limit.certified_at_most", figure(rate_, at_most=ERRS)


def passing(n: int, limit: float, won: float, alpha: float) -> float:
    """The probability that a candidate at the limit passes. More pairs won never turn a pass into a miss, so the least number is sought."""
    lost, total = limit + won, 0.0
    for b in range(*(int(x) for x in stats.binom.ppf([1e-9, 1 - 1e-9], n, lost))):
        others, share_won = n - b, won / (1 - lost)
        least, most = 0, int(stats.binom.ppf(1 - 1e-10, others, share_won)) + 1
        while least < most:
            middle = (least + most) // 2
            passed = rate(b, middle, n, alpha).high <= 100 * limit
            least, most = (least, middle) if passed else (middle + 1, most)
        total += stats.binom.pmf(b, n, lost) * stats.binom.sf(least - 1, others, share_won)
    return float(total)


def certified(splits: Splits, true_drops: list[float], won: float, rng: np.random.Generator) -> float | None:
    """One search over candidates in a random order of speed: the true drop of what was certified, or None."""
    true_of: dict[str, float] = {}
    contenders = []
    for trial, true_drop in zip(TRIALS, rng.permutation(true_drops), strict=False):
        look = sampled(splits, true_drop + won, won, rng)
        true_of[trial.id] = float(true_drop)
        if look.decision != "out":
            contenders.append(trial.with_(drop=look.drop_in))
    finalists = choose_finalists(Explored(start=TRIALS[0], reference=TRIALS[0], contenders=tuple(contenders)), splits.margin)
    for trial in finalists:
        lost = true_of[trial.id] + won
        b, c, _ = rng.multinomial(splits.certify, [lost, won, 1 - lost - won])
        if rate(int(b), int(c), splits.certify, ALPHA / len(finalists)).high <= splits.limit:
            return true_of[trial.id]
    return None


def sampled(splits: Splits, lost: float, won: float, rng: np.random.Generator) -> Look:
    """The looks at one candidate on select, until one decides."""
    b = c = done = 0
    for m in sequential(splits).looks:
        more = rng.multinomial(m - done, [lost, won, 1 - lost - won])
        b, c, done = b + int(more[0]), c + int(more[1]), m
        look = look_at(splits, b, c, m)
        if look.decision != "go on":
            return look
    return look


@cache
def sequential(splits: Splits) -> Sequential:
    return Sequential(metric=METRICS["accuracy"], limit=splits.limit, num_samples=splits.select)


@cache
def look_at(splits: Splits, lost: int, won: int, m: int) -> Look:
    reference, candidate = np.ones(m), np.ones(m)
    candidate[:lost], reference[lost : lost + won] = 0, 0
    return sequential(splits).look(reference, candidate)


SECTIONS: dict[str, Callable[[int], Named]] = {
    "speed": speed, "quick": quick, "percentiles": percentiles, "races": races, "drops": drops, "search": search, "sizes": sizes,
}  # fmt: skip

if __name__ == "__main__":
    main()
