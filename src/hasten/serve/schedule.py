"""Who is served next, with whom, and who is refused. No clock, no thread, no HTTP: whoever calls says what time it is.

A worker makes one call at a time; mostly there is one. Requests of one shape may share a call. The rules (after Clockwork, OSDI 2020;
Nexus, SOSP 2019; Symphony, 2023), with l(b) the seconds of a call of b samples:

1. The batch b* is the size with the highest rate among those where two calls fit into the objective, what passes between two calls
   counted in: it is learnt, as the curve is.
2. The earliest deadline is first, interactive requests before bulk ones. A shape has a queue of its own.
3. Who is predicted to miss his deadline is refused when he arrives.
4. When the worker is free, who has become hopeless is refused.
5. The worker never waits: it takes as many as are there, b* at most, as far as the deadlines in the batch allow.
6. Only where more than b* wait and the first in line has no time for a call of b*, he is refused and the next one looked at: under
   overload, small batches for those who are nearly late would cost more people their deadline than they save.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ..core.errors import Overloaded, QueueFull
from .curve import Curve

_ROUNDING = 1e-6  # seconds: who was let in by a hair must not be refused by one
_MAX_SHAPES = 64  # curves that are kept for shapes that nobody waits with
_PAUSE_RATE = 0.1  # the weight of the newest pause in their average


class Priority(IntEnum):
    """interactive: somebody waits; bulk: whenever there is room, without an objective of its own."""

    INTERACTIVE = 0
    BULK = 1


_LAST_FIRST = tuple(reversed(Priority))


@dataclass(kw_only=True, eq=False)
class Ticket:
    """One request that waits.

    size: its samples; shape: what requests must have in common to share a call; elements: numbers in one sample, by which the first
    guess for a new shape is made; following: samples of the same request that come after these and are due with them; deadline: when
    its answer is due, on the caller's clock; alone: it shares its call with nobody (`put_back` says so).
    """

    size: int
    shape: Hashable = ()
    elements: int = 1
    following: int = 0
    deadline: float = math.inf
    priority: Priority = Priority.INTERACTIVE
    alone: bool = False
    payload: Any = None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What the worker does next. batch: the tickets of the next call, empty where there is nothing to do; refused: too late for them."""

    batch: tuple[Ticket, ...] = ()
    refused: tuple[Ticket, ...] = ()

    @functools.cached_property
    def size(self) -> int:
        return sum(ticket.size for ticket in self.batch)


_NOTHING = Turn()
_Entry = tuple[int, float, int, Ticket]  # priority, deadline, number: unique, so that tickets are never compared


@dataclass(kw_only=True)
class _Queue:
    """The tickets of one shape in the order in which they are served."""

    curve: Curve
    entries: list[_Entry] = field(default_factory=list)
    samples: list[int] = field(default_factory=lambda: [0 for _ in Priority])

    def add(self, entry: _Entry) -> None:
        bisect.insort(self.entries, entry)
        self.samples[entry[0]] += entry[3].size

    def remove(self, place: int) -> Ticket:
        priority, _, _, ticket = self.entries.pop(place)
        self.samples[priority] -= ticket.size
        return ticket

    def ahead(self, priority: int, deadline: float) -> int:
        """Samples that are served before a newcomer."""
        place = bisect.bisect_right(self.entries, (priority, deadline, math.inf))
        if place == len(self.entries):
            return sum(self.samples)
        return sum(entry[3].size for entry in self.entries[:place])

    def heads(self) -> Iterator[int]:
        """The place of the first of each class, the last class first, so that removing one moves no other."""
        for priority in _LAST_FIRST:
            place = bisect.bisect_left(self.entries, (priority,))
            if place < len(self.entries) and self.entries[place][0] == priority:
                yield place


class Schedule:
    """The queues of one model. Not thread-safe.

    curve: of a call with samples of `elements` numbers; objective: seconds from arrival to answer that b* follows, or infinity;
    max_queue: requests of one class that may wait; workers: calls that are made at a time.
    """

    def __init__(self, curve: Curve, *, objective: float = math.inf, max_queue: int = 1024, elements: int = 1, workers: int = 1) -> None:
        self._first, self._elements = curve, elements
        self._objective, self._max_queue = objective, max_queue
        self._queues: dict[Hashable, _Queue] = {}
        self._waiting = [0 for _ in Priority]
        self._number = 0
        self._running: list[tuple[Turn, Curve, float]] = []  # with when each began
        self._workers, self._back_seconds = workers, 0.0
        self._pause = 0.0  # seconds between two calls while requests wait: answers are handed out, other threads have the processor
        self._ended: list[float] = []  # the last calls of workers that are away, where somebody waited for the next one

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nobody waits and no call is under way."""
        return not self._running and not any(self._waiting)

    @property
    def best_batch(self) -> int:
        """b* for samples of the usual shape."""
        return self._first.best_batch(self._objective, pause=self._pause)

    def admit(self, ticket: Ticket, now: float) -> None:
        """Put `ticket` in line. Raises QueueFull, Overloaded; the error says after how many seconds to come again."""
        queue = self._queue(ticket)
        if self._waiting[ticket.priority] >= self._max_queue:
            raise QueueFull(f"{self._max_queue} requests wait already", retry_after_seconds=self._free(ticket, now)[0] - now)
        if not self.is_easy(ticket.size + ticket.following, ticket.deadline, now):
            end = self._end(ticket, queue, now)
            if end > ticket.deadline - _ROUNDING:
                raise Overloaded("cannot be answered by its deadline", retry_after_seconds=end - ticket.deadline)
        self._put(ticket, queue)

    def is_easy(self, samples: int, deadline: float, now: float, *, ready: float = -math.inf) -> bool:
        """Whether `samples` that come now, or are decoded at `ready`, are surely in time: `admit` and `wait` would say so too.

        Where all who wait are of one shape, these say at most what one worker would take for them, in calls of b*, after the call that it
        makes. Where a worker is free and nobody waits, they are as quick themselves.
        """
        if len(self._queues) != 1 or not self._workers or (len(self._running) < self._workers and not len(self)):
            return False
        (queue,) = self._queues.values()
        curve, best = queue.curve, self._best(queue)
        free = now + self._back_seconds
        if len(self._running) >= self._workers:
            turn, running, began = self._running[0]
            free = max(now, began + running.seconds(turn.size))
        before = (sum(queue.samples) + samples - 1) // best
        end = free + self._pause + (before * (curve.seconds(best) + self._pause) if before else 0.0)
        return max(end, ready) + curve.cautious(max(best, samples)) <= deadline - _ROUNDING

    def wait(self, ticket: Ticket, now: float, *, ready: float = -math.inf) -> float:
        """Seconds until `ticket`, whose shape is not known yet, would be answered, if it is like those of the last that came.

        ready: when it can be in line; until then the line goes on. `following` of the ticket: samples that will be before it then.
        """
        shape = next(reversed(self._queues), None)
        queue = _Queue(curve=self._first) if shape is None else self._queues[shape]
        return max(self._end(ticket, queue, now), ready + queue.curve.fastest(ticket.size)) - now

    def put_back(self, ticket: Ticket) -> None:
        """Let a ticket whose call failed have one of its own, if there is still time."""
        ticket.alone = True
        self._put(ticket, self._queue(ticket))

    def cancel(self, ticket: Ticket) -> bool:
        """Whether `ticket` still waited; it does no longer."""
        queue = self._queues.get(ticket.shape)
        for place, entry in enumerate(queue.entries if queue else ()):
            if entry[3] is ticket:
                self._take(self._queues[ticket.shape], place)
                return True
        return False

    def clear(self) -> list[Ticket]:
        """All who wait, taken out of line."""
        return [self._take(queue, 0) for queue in self._queues.values() for _ in range(len(queue.entries))]

    def staff(self, workers: int, now: float, *, back_seconds: float = 0.0) -> list[Ticket]:
        """From now on there are so many workers. back_seconds: where none is left, until one is. Who is too late then, out of line."""
        self._workers, self._back_seconds = workers, back_seconds
        return [] if workers else self._hopeless(now + back_seconds)

    def next(self, now: float) -> Turn:
        """What a worker that is free does now. Until `finished` is called it counts as busy with the batch."""
        refused: list[Ticket] = []
        while len(self._running) < self._workers:
            if len(self):
                refused += self._hopeless(now)
            if not len(self):
                self._ended.clear()
                break
            queue = min((q for q in self._queues.values() if q.entries), key=lambda q: q.entries[0])
            if not self._holds_up(queue, now):
                turn = Turn(batch=self._batch(queue, now), refused=tuple(refused))
                self._running.append((turn, queue.curve, now))
                self._paused(now)
                return turn
            refused.append(self._take(queue, 0))
        return Turn(refused=tuple(refused)) if refused else _NOTHING

    def finished(self, now: float, *, well: bool = True, turn: Turn | None = None) -> None:
        """The call of `turn` has ended (None: of the only one under way); the curve learns from one that went well."""
        place = next(k for k, (one, _, _) in enumerate(self._running) if turn is None or one is turn)
        turn, curve, began = self._running.pop(place)
        if len(self):
            self._ended.append(now)
        if well:
            curve.observe(turn.size, now - began)

    def _paused(self, now: float) -> None:
        """Learn how long a worker was away between two calls."""
        if self._ended:
            self._pause += _PAUSE_RATE * (now - self._ended.pop(0) - self._pause)

    def _put(self, ticket: Ticket, queue: _Queue) -> None:
        self._number += 1
        queue.add((ticket.priority, ticket.deadline, self._number, ticket))
        self._waiting[ticket.priority] += 1

    def _take(self, queue: _Queue, place: int) -> Ticket:
        ticket = queue.remove(place)
        self._waiting[ticket.priority] -= 1
        return ticket

    def _queue(self, ticket: Ticket) -> _Queue:
        queue = self._queues.pop(ticket.shape, None)
        if queue is None:
            usual = ticket.elements == self._elements
            queue = _Queue(curve=self._first if usual else self._first.scaled(ticket.elements / self._elements))
        self._queues[ticket.shape] = queue  # the last one used is the last one forgotten
        if len(self._queues) > _MAX_SHAPES:
            for shape in [s for s, q in self._queues.items() if not q.entries and q is not queue][: len(self._queues) - _MAX_SHAPES]:
                del self._queues[shape]
        return queue

    def _free(self, ticket: Ticket, now: float, but: _Queue | None = None) -> list[float]:
        """A heap: when each worker has done the calls under way and all that is before `ticket`, those in the queue `but` left out."""
        free = [max(now, began + curve.seconds(turn.size)) + self._pause for turn, curve, began in self._running]
        free += [max(now, ended + self._pause) for ended in self._ended[: max(0, self._workers - len(free))]]
        free += [now + self._back_seconds] * max(self._workers - len(free), not free)  # where none is left, one comes back
        heapq.heapify(free)
        for queue in self._queues.values():
            if queue.entries and queue is not but:
                samples = queue.ahead(ticket.priority, ticket.deadline)
                _occupy(free, queue.curve, samples, self._best(queue), pause=self._pause)
        return free

    def _end(self, ticket: Ticket, queue: _Queue, now: float) -> float:
        """When `ticket`, and what follows it, would be answered."""
        if len(self._running) < self._workers and not len(self):
            return now + queue.curve.fastest(ticket.size) * max(1.0, (1 + ticket.following / ticket.size) / self._workers)
        best = self._best(queue)
        samples = queue.ahead(ticket.priority, ticket.deadline) + ticket.size + ticket.following
        own = max((samples - 1) % best + 1, ticket.size)  # samples of the call that it will be in
        full = own if samples <= best else max(best, own)  # where so many wait, others will fill that call
        free = self._free(ticket, now, but=queue)
        _occupy(free, queue.curve, samples - own, best, pause=self._pause)
        return free[0] + queue.curve.cautious(full)

    def _best(self, queue: _Queue) -> int:
        return queue.curve.best_batch(self._objective, pause=self._pause)

    def _hopeless(self, now: float) -> list[Ticket]:
        """Who cannot be answered in time even by a call of his own, taken out of line."""
        found = []
        for queue in self._queues.values():
            for place in queue.heads():
                while place < len(queue.entries) and self._is_late(queue, queue.entries[place][3], now):
                    found.append(self._take(queue, place))
        return found

    def _is_late(self, queue: _Queue, ticket: Ticket, now: float) -> bool:
        # The only one that waits is tried even where the last calls were slow: otherwise a server that has once
        # learnt to be too slow would refuse everybody and never learn that it is not.
        seconds = queue.curve.fastest if len(self) == 1 else queue.curve.cautious
        return now + seconds(ticket.size) > ticket.deadline

    def _holds_up(self, queue: _Queue, now: float) -> bool:
        """Whether the first in line would make the others' batch too small (rule 6)."""
        priority, deadline, _, head = queue.entries[0]
        best = self._best(queue)
        full = max(best, head.size)
        return not head.alone and queue.samples[priority] > full and now + queue.curve.cautious(full) > deadline

    def _batch(self, queue: _Queue, now: float) -> tuple[Ticket, ...]:
        batch = [self._take(queue, 0)]
        best, size, due = self._best(queue), batch[0].size, batch[0].deadline
        while queue.entries and not batch[0].alone:
            _, deadline, _, ticket = queue.entries[0]
            size, due = size + ticket.size, min(due, deadline)
            if ticket.alone or size > best or now + queue.curve.cautious(size) > due:
                break
            batch.append(self._take(queue, 0))
        return tuple(batch)


def _occupy(free: list[float], curve: Curve, samples: int, batch: int, *, pause: float) -> None:
    """Let workers, a heap of when each is free, compute `samples` samples, `batch` in each call, whoever is free first the next one.

    pause: seconds after each call."""
    calls, rest = divmod(samples, batch)
    rounds, more = divmod(calls, len(free))
    for k in range(len(free)):
        free[k] += rounds * (curve.seconds(batch) + pause)
    for took in [curve.seconds(batch)] * more + [curve.seconds(rest)] * bool(rest):
        heapq.heapreplace(free, free[0] + took + pause)
