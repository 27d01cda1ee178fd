"""Workers on a simulated clock: what a way of serving makes of a stream of requests, when calls take what a curve says."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from hasten.core.errors import Overloaded
from hasten.serve.schedule import Schedule, Ticket, Turn

Cost = Callable[[int], float]


@dataclass(kw_only=True)
class Outcome:
    """What became of every request. answered: when; at_once, later: when it was refused; calls: the size of each call."""

    answered: dict[Ticket, float] = field(default_factory=dict)
    at_once: dict[Ticket, Overloaded] = field(default_factory=dict)
    later: dict[Ticket, float] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    began: dict[Ticket, float] = field(default_factory=dict)

    @property
    def in_time(self) -> list[Ticket]:
        return [ticket for ticket, when in self.answered.items() if when <= ticket.deadline]

    @property
    def late(self) -> list[Ticket]:
        return [ticket for ticket, when in self.answered.items() if when > ticket.deadline]


class Fifo:
    """What hasten must beat: everybody is taken, first come first served, as many together as there are, `most` at most."""

    def __init__(self, most: int) -> None:
        self.most, self.waiting = most, list[Ticket]()

    def admit(self, ticket: Ticket, now: float) -> None:
        self.waiting.append(ticket)

    def next(self, now: float) -> Turn:
        batch, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
        return Turn(batch=tuple(batch))

    def finished(self, now: float, *, turn: Turn) -> None:
        pass


def simulate(
    line: Schedule | Fifo, arrivals: Iterable[tuple[float, Ticket]], cost: Cost, *, workers: int = 1, pause: float = 0.0
) -> Outcome:
    """Serve `arrivals` (when, who) to the end. pause: seconds after each call until a worker asks for the next one."""
    outcome = Outcome()
    numbers = iter(range(10**9))
    events: list[tuple[float, int, Ticket | Turn | Literal["back"]]] = [(when, next(numbers), ticket) for when, ticket in arrivals]
    heapq.heapify(events)
    busy = 0  # with a call, or between two
    while events:
        now, _, what = heapq.heappop(events)
        if isinstance(what, Ticket):
            try:
                line.admit(what, now)
            except Overloaded as error:
                outcome.at_once[what] = error
        elif isinstance(what, Turn):
            line.finished(now, turn=what)
            outcome.answered |= dict.fromkeys(what.batch, now)
            if pause > 0:
                heapq.heappush(events, (now + pause, next(numbers), "back"))
            else:
                busy -= 1
        else:
            busy -= 1
        while busy < workers:
            turn = line.next(now)
            outcome.later |= dict.fromkeys(turn.refused, now)
            if not turn.batch:
                break
            busy += 1
            outcome.calls.append(turn.size)
            outcome.began |= dict.fromkeys(turn.batch, now)
            heapq.heappush(events, (now + cost(turn.size), next(numbers), turn))
    return outcome


def poisson(rate: float, *, seconds: float, objective: float, seed: int = 0) -> list[tuple[float, Ticket]]:
    """Requests of one sample, `rate` a second on average, each due `objective` seconds after it came."""
    rng, now, arrivals = random.Random(seed), 0.0, list[tuple[float, Ticket]]()
    while (now := now + rng.expovariate(rate)) < seconds:
        arrivals.append((now, Ticket(size=1, deadline=now + objective)))
    return arrivals
