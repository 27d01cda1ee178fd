"""What one call costs, by how many samples it holds: measured beforehand, corrected by every call that is made."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from collections.abc import Mapping

RATE = 0.2
"""How much one call teaches about its own size: the weight of the newest in a moving average of logarithms."""

_OTHERS = 0.75
"""The part of that which it teaches about the other sizes. What slows one call mostly slows all (another process, a clock), and a
size that is avoided because it was slow once would otherwise stay slow for ever."""

_MOST = 4.0
"""The largest surprise, either way, that one call may be: longer ones are stalls of the machine, no property of the model."""

_REMEMBERED = 64
_MARGIN_QUANTILE = 0.95
_GOOD_ENOUGH = 0.98  # of the best rate: a larger batch would make everybody wait longer for less than 2 %


class Curve:
    """Seconds of one call against its samples: known at some sizes, straight lines between them, never falling.

    seconds: of one call, by its number of samples; at least one size, all above 0. Not thread-safe.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._sizes = sorted(seconds)
        self._learnt = [max(seconds[size], 1e-9) for size in self._sizes]
        self._first = list(itertools.accumulate(self._learnt, max))
        self._rising = self._first
        self._ratios, self._delays = _Mostly(), _Mostly()
        self._margin, self._delay = 1.0, 0.0
        self._best: dict[float, int] = {}  # by objective, until the next call is observed

    @property
    def largest(self) -> int:
        """The largest size that was measured."""
        return self._sizes[-1]

    @property
    def margin(self) -> float:
        """How many times longer than expected calls take, 19 of 20 times at most; 1 where they keep to it."""
        return self._margin

    def seconds(self, size: int) -> float:
        """What a call of `size` samples is expected to take."""
        return self._at(self._rising, size)

    def cautious(self, size: int) -> float:
        """What it takes at most, 19 times of 20.

        What holds calls up is a part of their length (a slower clock) or a time of its own (another thread that has the processor). Of
        sizes unlike those of the last calls the better is believed: short calls that were held up do not speak against long ones.
        """
        expected = self._at(self._rising, size)
        return min(expected * self._margin, expected + self._delay)

    def fastest(self, size: int) -> float:
        """What it was measured at before anything was learnt: all that an idle server must believe of itself."""
        return min(self._at(self._first, size), self.cautious(size))

    def scaled(self, factor: float) -> Curve:
        """A fresh curve, `factor` times this one: the first guess for samples that are larger or smaller."""
        return Curve({size: seconds * factor for size, seconds in zip(self._sizes, self._learnt, strict=True)})

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a call of `size` samples that took `seconds`."""
        expected = self.seconds(size)
        ratio = seconds / expected
        self._margin, self._delay = max(1.0, self._ratios.of(ratio)), max(0.0, self._delays.of(seconds - expected))
        step = min(max(ratio, 1 / _MOST), _MOST)
        before, others = self._learnt, step ** (RATE * _OTHERS)
        self._learnt = [known * others for known in before]
        for k, weight in self._weights(size).items():
            self._learnt[k] = before[k] * step ** (RATE * max(weight, _OTHERS))
        self._rising = list(itertools.accumulate(self._learnt, max))
        self._best.clear()

    def best_batch(self, objective: float, *, pause: float = 0.0) -> int:
        """Samples of a call that keep the objective at the highest rate.

        objective: seconds from arrival to answer, or infinity; pause: seconds between two calls, which large ones need less often. Who
        arrives just after a call has begun waits for it and then for his own, so that two calls must fit. Of what fits, the smallest size
        whose rate is within 2 % of the best. It is worked out anew when a call was observed.
        """
        if objective not in self._best:
            largest = self._largest_within(objective / 2)
            known = zip(self._sizes, self._rising, strict=True)
            rates = [(size / (took + pause), size) for size, took in known if size < largest]
            rates.append((largest / (self.seconds(largest) + pause), largest))
            best = max(rates)[0]
            self._best[objective] = next(size for rate, size in rates if rate >= _GOOD_ENOUGH * best)
        return self._best[objective]

    def _largest_within(self, seconds: float) -> int:
        if self.cautious(self.largest) <= seconds:
            return self.largest
        return max(1, bisect.bisect_right(range(1, self.largest + 1), seconds, key=self.cautious))

    def _weights(self, size: int) -> dict[int, float]:
        """How near the known sizes are, by their place: 1 for the size itself, shared between its two neighbours otherwise."""
        k = bisect.bisect_left(self._sizes, size)
        if k == len(self._sizes):
            return {k - 1: 1.0}
        if k == 0 or self._sizes[k] == size:
            return {k: 1.0}
        share = (size - self._sizes[k - 1]) / (self._sizes[k] - self._sizes[k - 1])
        return {k - 1: 1 - share, k: share}

    def _at(self, known: list[float], size: int) -> float:
        sizes = self._sizes
        if size > sizes[-1]:
            return known[-1] * size / sizes[-1]
        k = bisect.bisect_left(sizes, size)
        if k == 0 or sizes[k] == size:
            return known[k]
        share = (size - sizes[k - 1]) / (sizes[k] - sizes[k - 1])
        return known[k - 1] * (1 - share) + known[k] * share


class _Mostly:
    """What 19 of 20 of the newest values do not exceed."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque()
        self._ordered: list[float] = []

    def of(self, value: float) -> float:
        """The same with `value` among them."""
        if len(self._newest) == _REMEMBERED:
            del self._ordered[bisect.bisect_left(self._ordered, self._newest.popleft())]
        self._newest.append(value)
        bisect.insort(self._ordered, value)
        return self._ordered[math.ceil(_MARGIN_QUANTILE * len(self._ordered)) - 1]
