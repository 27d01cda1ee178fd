"""How much quality was lost, how much faster it runs, and how sure that is.

A drop is reference minus candidate in POINTS (hundredths), positive where quality was lost. All comparisons are paired:
row i of both sides belongs to the same sample. `low` and `high` of a drop are one-sided bounds, each at level 1 - alpha
(together they hold the drop with probability 1 - 2 alpha).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

from ..core.errors import DataError
from ..core.intervals import block_bounds, median_bounds
from ..core.measurement import Interval, Outcome, Verdict

MAX_NEEDED_SAMPLES = 10_000_000
"""`needed_samples` never names a higher count: beyond it, the answer for people is "as good as never"."""

POWER = 0.8
"""Probability of a decision that `needed_samples` plans for."""

_JACKKNIFE_GROUPS = 400  # a third moment needs no more

Statistic = Callable[[np.ndarray], float]
"""Rows [N, ...] -> one number."""


def rate_drop(reference: np.ndarray, candidate: np.ndarray, *, alpha: float) -> Interval:
    """The drop of a rate, in points, from paired binary outcomes [N] (1 = good).

    Tango's score interval for the difference of paired proportions (Tango 1998, Statistics in Medicine 17:891). Where
    no discordant pair speaks for one side, the exact binomial bound (Clopper & Pearson 1934) is used for the other if it is
    wider: there Tango's one-sided error reaches 6.7 % for a nominal 5 %. Raises DataError for unpaired or empty rows.
    """
    reference, candidate = _paired(reference, candidate)
    n = len(reference)
    lost = int(np.sum((reference == 1) & (candidate == 0)))
    won = int(np.sum((reference == 0) & (candidate == 1)))
    high, low = _rate_bound(lost, won, n, alpha), -_rate_bound(won, lost, n, alpha)
    return Interval(value=100 * (lost - won) / n, low=100 * low, high=100 * high, level=1 - alpha, n=n)


def mean_drop(reference: np.ndarray, candidate: np.ndarray, *, alpha: float) -> Interval:
    """The drop of a mean, in points, from paired real outcomes [N].

    Student's t on the differences after Hall's transformation, which removes the effect of their skewness (Hall 1992, JRSS B
    54:221); the bound that skewness widens is taken at a skewness of two standard errors more, since few samples show too little of
    it. Differences of fidelity are strongly skewed: with lognormal ones the plain t bound errs in 9.5 % of the cases at N = 200 for a
    nominal 5 %, BCa in 7.4 %, Hall's in 6.6 %, this one in 6 %, and from N = 300 on at most 6 % (docs/decisions/0012); for symmetric
    ones it is the t interval. Raises DataError for unpaired or empty rows.
    """
    reference, candidate = _paired(reference, candidate)
    largest = float(max(np.abs(reference).max(), np.abs(candidate).max()))
    return _mean_interval(reference - candidate, alpha, scale=largest)


def error_increase(reference: np.ndarray, candidate: np.ndarray, *, alpha: float) -> Interval:
    """The increase of a mean error, in percent of the reference's own mean, from paired errors [N] >= 0.

    The ratio of the means, linearised (delta method), then as `mean_drop`. A reference without any error gives 0 where
    the candidate has none either, and infinity otherwise.
    """
    reference, candidate = _paired(reference, candidate)
    own = float(reference.mean())
    if own == 0 or not np.isfinite(candidate).all():
        value = 0.0 if own == 0 and not candidate.any() else math.inf
        return Interval(value=value, low=value, high=value, level=1 - alpha, n=len(reference))
    ratio = float(candidate.mean()) / own
    return _mean_interval((ratio - 1) + (candidate - ratio * reference) / own, alpha, scale=float(reference.max()) / own)


def aggregate_drop(
    statistic: Statistic,
    reference_rows: np.ndarray,
    candidate_rows: np.ndarray,
    *,
    alpha: float,
    seed: int,
    num_resamples: int = 2000,
) -> Interval:
    """The drop, in points, of a statistic that is no mean (F1, R2), from paired rows [N, ...].

    Paired bootstrap, bias-corrected and accelerated percentiles (BCa; Efron 1987, JASA 82:171); more resamples where alpha
    asks for rarer tails. Without the acceleration the upper bound of F1 erred in 6.5 to 7 % of the cases for a nominal 5 %.
    Rows of integers (classes) get at least the width that a rate without discordant pairs has: what was never seen to differ
    cannot be resampled. Raises DataError for unpaired or empty rows.
    """
    if len(reference_rows) != len(candidate_rows) or len(reference_rows) == 0:
        raise DataError("outcomes", "must be paired: as many rows for both", got=(len(reference_rows), len(candidate_rows)))
    n, rng = len(reference_rows), np.random.default_rng(seed)

    def drop_of(picked: np.ndarray) -> float:
        return 100 * (statistic(reference_rows[picked]) - statistic(candidate_rows[picked]))

    value = drop_of(np.arange(n))
    if not math.isfinite(value):
        return Interval(value=math.inf, low=math.inf, high=math.inf, level=1 - alpha, n=n)
    num = min(10_000, max(num_resamples, math.ceil(40 / alpha)))
    drops = np.array([drop_of(rng.integers(0, n, n)) for _ in range(num)])
    drops = drops[np.isfinite(drops)]
    below = (np.sum(drops < value) + 0.5 * np.sum(drops == value) + 0.5) / (len(drops) + 1)
    shift, tail, bend = stats.norm.ppf(below), stats.norm.ppf(1 - alpha), _acceleration(drop_of, rng.permutation(n))
    bent = [shift + z / max(0.1, 1 - bend * z) for z in (shift - tail, shift + tail)]
    low, high = np.quantile(drops, stats.norm.cdf(bent))
    unseen = 100 * _rate_bound(0, 0, n, alpha) if reference_rows.dtype.kind in "iub" else 0.0
    return Interval(value=value, low=float(min(low, value - unseen)), high=float(max(high, value + unseen)), level=1 - alpha, n=n)


def noninferiority(drop: Interval, limit: float, *, alpha: float, needed: int | None = None, unit: str = "points") -> Verdict:
    """Whether at most `limit` was lost: passed where drop.high <= limit, failed where drop.low > limit, else undecided.

    drop, limit: in `unit`; alpha: the one-sided error rate that drop's bounds carry; needed: see `needed_samples`.
    """
    word = "lost" if drop.value >= 0 else "won"
    bounds = f"{word} {_number(abs(drop.value))} {unit}"
    level, allowed = f"{100 * (1 - alpha):.3g} %", f"allowed {_number(limit)}"
    outcome: Outcome
    if drop.high <= limit:
        outcome, bound, end = "passed", f"upper bound of the loss {_number(drop.high)}", f"passed on {drop.n:,} samples"
    elif drop.low > limit:
        outcome, bound, end = "failed", f"lower bound of the loss {_number(drop.low)}", f"failed on {drop.n:,} samples"
    else:
        outcome, bound = "undecided", f"bounds of the loss {_number(drop.low)} to {_number(drop.high)}"
        end = f"undecided on {drop.n:,} samples, " + (
            f"about {needed:,} would decide it" if needed else "and no number of samples can be named that would decide it"
        )
    return Verdict(
        outcome=outcome,
        reason=f"{bounds} ({bound} at {level}), {allowed}: {end}",
        drop=drop,
        limit=limit,
        alpha=alpha,
        needed_samples=needed if outcome == "undecided" else None,
        method="paired non-inferiority",
    )


def needed_samples(reference: np.ndarray, candidate: np.ndarray, limit: float, alpha: float) -> int | None:
    """How many samples would decide the verdict with 80 % power, if drop and scatter of these paired outcomes [N] stay.

    limit: in points. None where the drop equals the limit: then no count would. At most MAX_NEEDED_SAMPLES.
    For binary outcomes the scatter at the limit is Tango's, so that it works without any discordant pair.
    """
    reference, candidate = _paired(reference, candidate)
    differences, border = reference - candidate, limit / 100
    gap = float(differences.mean()) - border
    if not math.isfinite(gap) or abs(gap) < 1e-12:
        return None
    observed = limiting = float(differences.std())
    least = len(reference)
    if is_binary(reference) and is_binary(candidate):
        lost, won = int(np.sum(differences > 0)), int(np.sum(differences < 0))
        limiting = math.sqrt(_variance_at(border, lost, won, len(reference)))
        least = 1
        if lost + won == 0 and border < 1:
            least = math.ceil(math.log(alpha) / math.log1p(-border))
    tails = _tail(alpha) * limiting + _tail(1 - POWER) * observed
    return min(MAX_NEEDED_SAMPLES, max(least, math.ceil((tails / gap) ** 2)))


def needed_for_width(drop: Interval, limit: float, alpha: float) -> int | None:
    """As `needed_samples`, for any drop: its width is taken to shrink with the square root of the number of samples."""
    gap = limit - drop.value
    if not math.isfinite(gap) or abs(gap) < 1e-10:
        return None
    half = drop.high - drop.value if gap > 0 else drop.value - drop.low
    more = 1 + _tail(1 - POWER) / _tail(alpha)
    return min(MAX_NEEDED_SAMPLES, math.ceil(drop.n * (more * half / gap) ** 2))


def ratio_interval(a: np.ndarray, b: np.ndarray, *, blocks: np.ndarray | None = None, level: float = 0.95) -> Interval:
    """The ratio a/b with its two-sided interval, from paired positive numbers, one pair for each interleaved round [N].

    blocks [N]: the process incarnation of each round; rounds of one process share their luck (memory layout, placement), so
    with two blocks or more the logarithms of the block medians are the observations, and Student's t over them holds the
    variance within and between blocks. Otherwise the rounds are the observations: their median, with order statistics as bounds
    (as Measurement.interval; a round in which something else woke up does not widen it), for these processes alone: others have other
    luck. n: observations. Pairs that are not positive and finite are left out; with fewer than two observations the bounds are 0 and
    infinity, and fewer than 6 rounds carry less than 95 %.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    good = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
    logs = np.log(a[good] / b[good])
    several = blocks is not None and len(names := np.unique(np.asarray(blocks)[good])) > 1
    if several:
        logs = np.array([np.median(logs[np.asarray(blocks)[good] == name]) for name in names])
    n = len(logs)
    if n == 0:
        return Interval(value=math.nan, low=math.nan, high=math.nan, level=level, n=0)
    if n == 1:
        return Interval(value=math.exp(logs[0]), low=0.0, high=math.inf, level=level, n=1)
    if several:
        center = float(logs.mean())
        low, high = block_bounds(logs, level)
    else:
        center = float(np.median(logs))
        low, high, level = median_bounds(logs, level)
    return Interval(value=math.exp(center), low=math.exp(low), high=math.exp(min(700.0, high)), level=level, n=n)


def _acceleration(drop_of: Callable[[np.ndarray], float], order: np.ndarray) -> float:
    """Efron's acceleration by the jackknife. order: all rows [N], shuffled; where there are many, groups of them are left out."""
    left_out = np.array(
        [drop_of(np.delete(order, part)) for part in np.array_split(np.arange(len(order)), min(len(order), _JACKKNIFE_GROUPS))]
    )
    influence = left_out.mean() - left_out
    scale = float((influence**2).sum()) ** 1.5
    return float((influence**3).sum()) / (6 * scale) if math.isfinite(scale) and scale > 0 else 0.0


def _paired(reference: np.ndarray, candidate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, candidate = np.asarray(reference, dtype=float), np.asarray(candidate, dtype=float)
    if reference.shape != candidate.shape or reference.ndim != 1 or len(reference) == 0:
        raise DataError("outcomes", "must be paired: [N] with N > 0 for both", got=(reference.shape, candidate.shape))
    return reference, candidate


def is_binary(rows: np.ndarray) -> bool:
    """Whether every outcome is 0 or 1."""
    return bool(np.isin(rows, (0.0, 1.0)).all())


def _variance_at(difference: float, lost: int, won: int, n: int) -> float:
    """The variance of one pair's difference, its most likely value if the true difference is `difference` (Tango 1998)."""
    a = 2 * n
    b = -lost - won + (2 * n - lost + won) * difference
    c = -won * difference * (1 - difference)
    other = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)  # the probability of a pair that speaks for the candidate
    return max(0.0, 2 * other + difference * (1 - difference))


def _tango_bound(lost: int, won: int, n: int, alpha: float) -> float:
    """The upper bound of the lost share: the difference whose score test has the p-value alpha."""
    value, tail = (lost - won) / n, _tail(alpha)
    if lost == n:
        return 1.0

    def score(difference: float) -> float:
        # Multiplied out: no division by a variance that may vanish at the ends.
        return n * (difference - value) - tail * math.sqrt(n * _variance_at(difference, lost, won, n))

    # Without discordant pairs the score vanishes at `value` itself, which is not the root that is sought.
    start = value + 1e-12 if score(value + 1e-12) < 0 else value
    return float(optimize.brentq(score, start, 1.0, xtol=1e-14))


def _rate_bound(lost: int, won: int, n: int, alpha: float) -> float:
    tango = _tango_bound(lost, won, n, alpha)
    if won or lost == n:
        return tango
    return max(tango, float(stats.beta.ppf(1 - alpha, lost + 1, n - lost)))


def _mean_interval(differences: np.ndarray, alpha: float, *, scale: float) -> Interval:
    """Bounds of 100 x the mean of `differences` [N]; `scale`: how much one sample could have differed, if none did."""
    n, level = len(differences), 1 - alpha
    if not np.isfinite(differences).all():
        return Interval(value=math.inf, low=math.inf, high=math.inf, level=level, n=n)
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1)) if n > 1 else 0.0
    if n == 1:
        return Interval(value=100 * mean, low=-math.inf, high=math.inf, level=level, n=n)
    if deviation <= 1e-12 * abs(mean) or deviation == 0:
        unseen = scale * _rate_bound(0, 0, n, alpha) if mean == 0 else 0.0
        return Interval(value=100 * mean, low=100 * (mean - unseen), high=100 * (mean + unseen), level=level, n=n)
    skew, more = _skewness((differences - mean) / deviation)
    reach = float(stats.t.ppf(level, n - 1)) / math.sqrt(n)
    low, high = (mean - deviation * sign * max(sign * _without_skew(sign * reach, s, n) for s in (skew, more)) for sign in (1, -1))
    return Interval(value=100 * mean, low=100 * low, high=100 * high, level=level, n=n)


def _skewness(values: np.ndarray) -> tuple[float, float]:
    """The skewness of standardised values [N], and it with two standard errors more: few samples show too little of a long tail.

    The error is the jackknife's, to first order; symmetric values have a skewness of 0 either way.
    """
    skew = float((values**3).mean())
    influence = values**3 - skew - 3 * values - 1.5 * skew * (values**2 - 1)
    error = float(influence.std()) / math.sqrt(len(values))
    return skew, skew + 2 * error * skew / (abs(skew) + error) if skew else 0.0


def _without_skew(reach: float, skew: float, n: int) -> float:
    """The inverse of Hall's cubic transformation of a studentised mean."""
    if abs(skew) < 1e-6:
        return reach
    return 3 / skew * (float(np.cbrt(1 + skew * (reach - skew / (6 * n)))) - 1)


def _tail(alpha: float) -> float:
    """The normal quantile that is exceeded with probability alpha."""
    return float(stats.norm.ppf(1 - alpha))


def _number(value: float) -> str:
    return f"{value:.3g}"
