"""Watches whether what a model is asked and answers still looks as it did when it was certified.

A call of the program gives at most one sample to a thread of its own, some times a second, so that watching costs next to nothing. After a
window of them they are compared, and a new window begins: each comparison is of other samples, so that its error rate is what it
says. Samples of one window that are alike (one camera, one sender) look like drift: they are not independent.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..bundle.distribution import Difference, Distribution, Kind
from ..bundle.read import Bundle
from ..core.seams import Arrays

WINDOW = 500
"""Samples of one comparison."""
INTERVAL_SECONDS = 0.02
"""At least so long between two samples of one model."""
_WAITING = 4  # samples that the thread may be behind: more are left out

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known. known: whether the bundle says how it was certified; samples: in the window so far; differences: of the last whole
    window, empty before the first."""

    known: bool
    samples: int = 0
    window: int = WINDOW
    differences: tuple[Difference, ...] = ()

    @property
    def alarm(self) -> bool:
        return any(difference.alarm for difference in self.differences)


class Drift:
    """The watch over one model. Without a distribution in the bundle nothing is known.

    shares: whether the first axis of every tensor is samples: else nothing is known either; window, interval: see WINDOW and
    INTERVAL_SECONDS; clock: seconds.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        shares: bool = True,
        window: int = WINDOW,
        interval: float = INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._distribution: Distribution | None = bundle.distribution if shares else None
        manifest = bundle.manifest
        self._kind = Kind(
            signature=bundle.signature, output=manifest.output, classifier=manifest.classifier, probabilities=manifest.probabilities
        )
        self._window, self._interval, self._clock = window, interval, clock
        self._next = -np.inf
        self._rng = np.random.default_rng()
        self._bins: dict[str, np.ndarray] = {}
        self._samples = 0
        self._differences: tuple[Difference, ...] = ()
        self._queue: queue.Queue[tuple[Outputs, Outputs] | None] = queue.Queue(maxsize=_WAITING)
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> State:
        if self._distribution is None:
            return State(known=False)
        return State(known=True, samples=self._samples, window=self._window, differences=self._differences)

    def watching(self, run: Callable[[Arrays], Outputs]) -> Callable[[Arrays], Outputs]:
        """`run`, some of whose samples are looked at."""
        if self._distribution is None:
            return run
        self._thread = threading.Thread(target=self._work, name="hasten-drift", daemon=True)
        self._thread.start()

        def watched(inputs: Arrays) -> Outputs:
            outputs = run(inputs)
            self._offer(inputs, outputs)
            return outputs

        return watched

    def close(self) -> None:
        """Let the thread end, after what it was given."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _offer(self, inputs: Arrays, outputs: Outputs) -> None:
        """One sample of a call, copied, so that the call's tensors can go."""
        now = self._clock()
        if now < self._next or self._queue.full():
            return
        self._next = now + self._interval
        size = len(next(iter(inputs.values())))
        k = int(self._rng.integers(size))
        sample = tuple({name: array[k : k + 1].copy() for name, array in side.items() if len(array) == size} for side in (inputs, outputs))
        with contextlib.suppress(queue.Full):  # another worker was faster
            self._queue.put_nowait(sample)  # type: ignore[arg-type]

    def _work(self) -> None:
        while (sample := self._queue.get()) is not None:
            self.see(*sample)

    def see(self, inputs: Arrays, outputs: Arrays) -> None:
        """Count samples [N, ...]; the one that fills the window ends it."""
        assert self._distribution is not None
        numbers = self._kind.numbers(inputs, outputs)
        for feature in self._distribution.features:
            if feature.name in numbers:
                counts = feature.bins(numbers[feature.name])
                self._bins[feature.name] = self._bins.get(feature.name, 0) + counts
        self._samples += len(next(iter(inputs.values())))
        if self._samples >= self._window:
            self._differences = tuple(self._distribution.compare(self._bins))
            self._bins, self._samples = {}, 0
