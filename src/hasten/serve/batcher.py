"""Requests wait here, share calls of the program, and get their own part of the answer. No HTTP.

One thread a worker, mostly the only one, calls the program, one call at a time, and takes the next batch itself, so that the program does
not wait for the event loop between calls. Nobody polls: a request wakes a thread, the end of a call wakes the request. `schedule.py` says
who is next.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import HastenError, Overloaded, ReplicaLost
from ..core.seams import Arrays
from .meter import Call, Meter, Witness
from .schedule import Priority, Schedule, Ticket, Turn

Outputs = dict[str, np.ndarray]
Room = Callable[[Sequence[Arrays]], contextlib.AbstractContextManager[Arrays]]
"""Puts the tensors of the requests that share a call together, for one call."""

_LATENESS = 0.95  # the part of the answers that reach those who wait within the time that is set aside for it
_STEP = 0.05  # of that time, by which one answer corrects it
_SET_ASIDE = 0.1  # of the time that a request has, at most


@dataclass(kw_only=True)
class _Waiting:
    """What a ticket carries: the tensors, and who waits for the outputs. ended: when its call did; lost: whether a call already was;
    witness: told of the call."""

    inputs: Arrays
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Outputs]
    arrived: float
    ended: float = 0.0
    witness: Witness | None = None
    lost: bool = False


class Batcher:
    """Answers requests by calling `run`, as many together as pay. `start` it first, `drain` it at the end.

    run: tensors by name [N, ...] -> outputs by name [N, ...], called on threads of the batcher's own; shares: whether requests
    may share a call, the first axis of every tensor being samples; workers: how many calls may be made at a time; room: where `run` wants
    its tensors; clock: seconds, as deadlines count them.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Outputs],
        schedule: Schedule,
        *,
        shares: bool = True,
        workers: int = 1,
        room: Room | None = None,
        clock: Callable[[], float] = time.monotonic,
        meter: Meter | None = None,
    ) -> None:
        self._run, self._schedule, self._shares, self._clock = run, schedule, shares, clock
        self._room = room or _joined
        self._meter = meter or Meter()
        self._changed = threading.Condition()  # guards the schedule and _stopping
        self._stopping = False
        self._away, self._back_seconds = "", 0.0  # why nothing can be computed now, and until when
        self._taken = 0  # requests that are not answered yet
        self._delivery = 1e-4  # seconds from the end of a call until its answers are in their senders' hands, mostly
        self._draining = False  # nobody is taken any more
        self._drained = asyncio.Event()
        self._threads = [threading.Thread(target=self._work, name="hasten-program", daemon=True) for _ in range(workers)]

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._schedule)

    @property
    def idle(self) -> bool:
        """Whether nobody waits and no call is under way."""
        return self._schedule.idle

    def start(self) -> None:
        """Begin to answer."""
        for thread in self._threads:
            thread.start()

    def staff(self, workers: int, *, back_seconds: float = 0.0, away: str = "") -> None:
        """From now on so many calls can be made at a time. back_seconds: where it is none, until it is one again; away: why not to wait."""
        with self._changed:
            self._away, self._back_seconds = away, back_seconds
            late = self._schedule.staff(workers, self._clock(), back_seconds=back_seconds)
            unserved = self._schedule.clear() if away else []
            self._changed.notify_all()
        self._refuse(late, _too_late)
        self._refuse(unserved, self._unstaffed)

    async def drain(self) -> None:
        """Take no more, answer everybody who was taken, and let the thread end."""
        self._draining = True
        if self._taken:
            await self._drained.wait()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    async def submit(
        self, inputs: Arrays, *, deadline: float = math.inf, priority: Priority = Priority.INTERACTIVE, witness: Witness | None = None
    ) -> Outputs:
        """The outputs for `inputs`, checked tensors by name. More samples than one call should hold are several calls.

        deadline: on the batcher's clock; the answer is there by then, or Overloaded is raised, mostly at once; witness: told of the
        calls that the answer is from. A submit that is cancelled leaves the queue. Raises what `run` raised for these inputs,
        Overloaded, QueueFull.
        """
        if self._draining:
            raise Overloaded("comes while the server stops", retry_after_seconds=1.0)
        self._taken += 1
        try:
            return await self._answer(inputs, deadline, priority, witness)
        finally:
            self._leave()

    def lateness(self, *, deadline: float, priority: Priority, ready: float, ahead: int = 0) -> float:
        """Seconds after `deadline` when a sample would be answered, as far as is known before it is decoded; 0 or less: it is in time.

        ready: when it is decoded; ahead: samples that are being decoded and will be served before it.
        """
        now = self._clock()
        due = self._due(deadline, now)
        with self._changed:
            if self._schedule.is_easy(1 + ahead, due, now, ready=ready):
                return 0.0
            ticket = Ticket(size=1, following=ahead, deadline=due, priority=priority)
            return now + self._schedule.wait(ticket, now, ready=ready) - due

    def _unstaffed(self) -> ReplicaLost:
        return ReplicaLost(f"needs a replica, and none runs: {self._away}", retry_after_seconds=self._back_seconds)

    def _leave(self) -> None:
        """One request less; the last one ends a drain."""
        self._taken -= 1
        if self._draining and not self._taken:
            self._drained.set()

    async def _answer(self, inputs: Arrays, deadline: float, priority: Priority, witness: Witness | None) -> Outputs:
        """The outputs for `inputs`, in as many calls as it takes."""
        size = _samples(inputs) if self._shares else 1
        with self._changed:
            away, most = self._away, self._schedule.best_batch
        if away:
            self._meter.refused(error := self._unstaffed())
            raise error
        if size <= most:
            return await self._one(inputs, size, deadline, priority, witness)
        starts, answers = iter(range(0, size, most)), dict[int, Outputs]()

        async def lane() -> None:
            for at in starts:
                part = {name: array[at : at + most] for name, array in inputs.items()}
                following = max(0, size - at - most)
                answers[at] = await self._one(part, _samples(part), deadline, priority, witness, following=following)

        lanes = [asyncio.ensure_future(lane()) for _ in range(len(self._threads) + 1)]  # one more than are computed
        try:
            await asyncio.gather(*lanes)
        finally:
            for task in lanes:  # where one part is refused, the other leaves the queue
                task.cancel()
        return {name: np.concatenate([answers[at][name] for at in sorted(answers)]) for name in answers[0]}

    async def _one(
        self, inputs: Arrays, size: int, deadline: float, priority: Priority, witness: Witness | None, following: int = 0
    ) -> Outputs:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(inputs=inputs, loop=loop, future=loop.create_future(), arrived=self._clock(), witness=witness)
        ticket = Ticket(
            size=size,
            shape=tuple((name, array.shape[1:] if self._shares else array.shape) for name, array in inputs.items()),
            elements=sum(array.size for array in inputs.values()) // size,
            following=following,
            deadline=self._due(deadline, waiting.arrived),
            priority=priority,
            alone=not self._shares,
            payload=waiting,
        )
        self._admit(ticket, waiting.arrived)
        try:
            outputs = await waiting.future
            self._delivered(self._clock() - waiting.ended)
            return outputs
        except asyncio.CancelledError:
            with self._changed:
                if self._schedule.cancel(ticket):
                    self._meter.cancelled()
            raise

    def _due(self, deadline: float, now: float) -> float:
        """When the call of a request must end, so that its sender has the answer by `deadline`."""
        left = deadline - now
        return deadline - min(self._delivery, _SET_ASIDE * left) if 0 < left < math.inf else deadline

    def _delivered(self, seconds: float) -> None:
        """Learn how long the event loop takes to come to an answer: where it encodes many, the last ones wait for the others."""
        self._delivery = max(self._delivery * (1 + _STEP * (_LATENESS if seconds > self._delivery else _LATENESS - 1)), 1e-5)

    def _admit(self, ticket: Ticket, now: float) -> None:
        try:
            with self._changed:
                self._schedule.admit(ticket, now)
                self._changed.notify()
        except Overloaded as error:
            self._meter.refused(error)
            raise

    def _work(self) -> None:
        """The thread: the next turn, its call, and again."""
        while (turn := self._next()) is not None:
            if turn.refused:
                self._refuse(turn.refused, _too_late)
            if turn.batch:
                self._call(turn)

    def _next(self) -> Turn | None:
        """What there is to do; None when it is time to end."""
        with self._changed:
            while True:
                turn = self._schedule.next(self._clock())
                if turn.batch or turn.refused:
                    return turn
                if self._stopping:
                    return None
                self._changed.wait()

    def _call(self, turn: Turn) -> None:
        waiting: list[_Waiting] = [ticket.payload for ticket in turn.batch]
        began = self._clock()
        try:
            with self._room([one.inputs for one in waiting]) as inputs:
                answers = _split(self._run(inputs), turn.batch)
        except ReplicaLost as error:
            self._lost(turn, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, those who asked must hear it, and the thread must live
            self._failed(turn, error)
            return
        ended = self._clock()
        with self._changed:
            self._schedule.finished(ended, turn=turn)
        for one in waiting:
            one.ended = ended
        late = sum(ended > ticket.deadline for ticket in turn.batch)
        self._meter.call(size=turn.size, waited=[began - w.arrived for w in waiting], seconds=ended - began, late=late)
        _testify(waiting, began, ended, turn.size)
        _deliver(zip(waiting, answers, strict=True))

    def _failed(self, turn: Turn, error: Exception) -> None:
        """The only one of a call hears of its failure; of several, each is tried alone, so that one bad request harms no other."""
        if len(turn.batch) == 1:
            with self._changed:
                self._schedule.finished(self._clock(), well=False, turn=turn)
            self._meter.failed()
            _deliver([(turn.batch[0].payload, error)])
            return
        self._again(turn, turn.batch)

    def _lost(self, turn: Turn, error: ReplicaLost) -> None:
        """The process that computed a call is no more: each request is tried once again, alone, since one of them may have ended it."""
        twice = [ticket for ticket in turn.batch if ticket.payload.lost]
        for ticket in turn.batch:
            ticket.payload.lost = True
        self._again(turn, [ticket for ticket in turn.batch if ticket not in twice])
        for _ in twice:
            self._meter.failed()
        _deliver((ticket.payload, error) for ticket in twice)

    def _again(self, turn: Turn, tickets: Iterable[Ticket]) -> None:
        """The call of `turn` failed, and `tickets` of it wait for calls of their own."""
        with self._changed:
            self._schedule.finished(self._clock(), well=False, turn=turn)
            for ticket in tickets:
                if not ticket.payload.future.done():
                    self._schedule.put_back(ticket)
            unserved = self._schedule.clear() if self._away else []
            self._changed.notify_all()
        self._refuse(unserved, self._unstaffed)

    def _refuse(self, tickets: Sequence[Ticket], why: Callable[[], Overloaded]) -> None:
        errors = [why() for _ in tickets]
        for error in errors:
            self._meter.refused(error)
        _deliver((ticket.payload, error) for ticket, error in zip(tickets, errors, strict=True))


def _too_late() -> Overloaded:
    return Overloaded("could not be answered by its deadline", retry_after_seconds=1.0)


def _samples(inputs: Arrays) -> int:
    return len(next(iter(inputs.values())))


def _joined(parts: Sequence[Arrays]) -> contextlib.AbstractContextManager[Arrays]:
    """The tensors of one call. Those of a request that is alone are taken as they are."""
    if len(parts) == 1:
        return contextlib.nullcontext(parts[0])
    return contextlib.nullcontext({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _split(outputs: Outputs, tickets: Sequence[Ticket]) -> list[Outputs]:
    """What belongs to each ticket. Raises HastenError where outputs are not one row a sample."""
    if len(tickets) == 1:
        return [outputs]
    total = sum(ticket.size for ticket in tickets)
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise HastenError(f"output {name!r}", f"must hold one row for each of {total} samples", got=array.shape)
    ends = list(itertools.accumulate(ticket.size for ticket in tickets))
    starts = [0, *ends[:-1]]
    return [{name: array[start:end] for name, array in outputs.items()} for start, end in zip(starts, ends, strict=True)]


def _testify(waiting: Sequence[_Waiting], began: float, ended: float, size: int) -> None:
    """Tell the witnesses of a call."""
    witnesses = [one.witness for one in waiting if one.witness is not None]
    call = Call(began=began, ended=ended, size=size, witnesses=witnesses)
    for one in waiting:
        if one.witness is not None:
            one.witness.called(call, one.arrived)


def _deliver(answers: Iterable[tuple[_Waiting, Outputs | Exception]]) -> None:
    """Wake those who wait, each on his own event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Outputs], Outputs | Exception]]] = {}
    for waiting, answer in answers:
        by_loop.setdefault(waiting.loop, []).append((waiting.future, answer))
    for loop, ready in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_resolve, ready)


def _resolve(ready: Sequence[tuple[asyncio.Future[Outputs], Outputs | Exception]]) -> None:
    for future, answer in ready:
        if future.done():  # cancelled in the meantime
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
