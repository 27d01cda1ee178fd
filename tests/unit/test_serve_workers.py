"""Several calls at a time: what holds for one worker holds for many, and workers that go away take nobody along."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from serve_simulation import poisson, simulate

from hasten.core.errors import Overloaded, ReplicaLost
from hasten.core.seams import Arrays
from hasten.serve.batcher import Batcher, Outputs
from hasten.serve.curve import Curve
from hasten.serve.schedule import Schedule, Ticket

OBJECTIVE = 0.0505
WORKERS = (2, 3, 8)


def cost(size: int) -> float:
    return 0.004 + 0.0005 * size


def curve() -> Curve:
    return Curve({2**k: cost(2**k) for k in range(7)})


def schedule(workers: int, **knobs: Any) -> Schedule:
    return Schedule(curve(), objective=OBJECTIVE, workers=workers, **knobs)


SUSTAINABLE = (best := curve().best_batch(OBJECTIVE)) / cost(best)
"""Requests a second that one worker can answer for ever."""


def overload(times: float, workers: int) -> list[tuple[float, Ticket]]:
    return poisson(times * workers * SUSTAINABLE, seconds=5.0 / workers**0.5, objective=OBJECTIVE)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(("load", "least"), [(0.5, 0.995), (0.95, 0.98), (1.3, 0.70), (2.0, 0.45)])
def test_nobody_is_late_and_goodput_is_near_its_bound(workers: int, load: float, least: float) -> None:
    arrivals = overload(load, workers)
    outcome = simulate(schedule(workers), arrivals, cost, workers=workers)
    assert outcome.late == []
    assert len(outcome.answered) + len(outcome.at_once) + len(outcome.later) == len(arrivals)
    assert len(outcome.in_time) >= least * len(arrivals)
    assert len(outcome.later) <= 0.01 * len(arrivals), "whoever is refused hears it on arrival"


@pytest.mark.parametrize("workers", WORKERS)
def test_a_forecast_is_when_the_answer_comes(workers: int) -> None:
    """Requests without a common objective, each alone in its call: what is forecast for the last one is what becomes of it."""
    line = Schedule(Curve({1: 0.01}), workers=workers)
    for waiting in range(40):
        forecast = line.wait(Ticket(size=1), 0.0)
        assert forecast == pytest.approx(0.01 * (waiting // workers + 1))
        line.admit(Ticket(size=1), 0.0)


def test_a_forecast_counts_what_is_under_way() -> None:
    line = Schedule(Curve({1: 0.01}), workers=2)
    for at in (0.0, 0.004):
        line.admit(Ticket(size=1), at)
        assert line.next(at).size == 1
    assert line.next(0.005).size == 0, "both are busy"
    forecasts = []
    for _ in range(4):
        forecasts.append(0.005 + line.wait(Ticket(size=1), 0.005))
        line.admit(Ticket(size=1), 0.005)
    assert forecasts == pytest.approx([0.020, 0.024, 0.030, 0.034])


def test_each_turn_ends_for_itself() -> None:
    line = Schedule(Curve({1: 0.01}), workers=2)
    for _ in range(3):
        line.admit(Ticket(size=1), 0.0)
    first, second = line.next(0.0), line.next(0.0)
    assert line.next(0.0).batch == ()
    line.finished(0.008, turn=second)
    third = line.next(0.008)
    assert third.size == 1
    line.finished(0.01, turn=first)
    line.finished(0.018, turn=third)


def test_with_no_worker_who_would_be_late_is_refused_and_others_wait() -> None:
    line = schedule(2)
    soon, later = Ticket(size=1, deadline=0.5), Ticket(size=1, deadline=math.inf)
    for ticket in (soon, later):
        line.admit(ticket, 0.0)
    assert line.staff(0, 0.0, back_seconds=1.0) == [soon]
    assert line.next(0.1).batch == ()
    with pytest.raises(Overloaded) as caught:
        line.admit(Ticket(size=1, deadline=0.6), 0.1)
    assert 0.4 < caught.value.retry_after_seconds < 0.7
    assert line.staff(1, 1.0) == []
    assert line.next(1.0).batch == (later,)


# With threads -------------------------------------------------------------------------------------------------------------


def rows(*values: float) -> Arrays:
    return {"x": np.array(values, np.float32)[:, None]}


@asynccontextmanager
async def running(program: Callable[[Arrays], Outputs], workers: int = 2) -> AsyncIterator[Batcher]:
    batcher = Batcher(program, Schedule(Curve({2**k: 0.001 + 0.0001 * 2**k for k in range(5)}), workers=workers), workers=workers)
    batcher.start()
    yield batcher
    await batcher.drain()


def scenario(body: Any) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


def test_two_calls_are_made_at_a_time() -> None:
    both = threading.Barrier(2)

    def program(inputs: Arrays) -> Outputs:
        both.wait(30)
        return {"y": 2 * inputs["x"]}

    async def body() -> None:
        async with running(program) as batcher:
            for _ in range(20):
                wide = {"x": np.ones((1, 2), np.float32)}  # of another shape: they cannot share a call
                answers = await asyncio.gather(batcher.submit(rows(1)), batcher.submit(wide))
                assert [answer["y"].tolist() for answer in answers] == [[[2]], [[2, 2]]]
            whole = await batcher.submit(rows(*range(64)))  # in four calls of 16
            np.testing.assert_array_equal(whole["y"], 2 * rows(*range(64))["x"])

    scenario(body)


def test_what_was_lost_once_is_tried_again_alone_and_what_was_lost_twice_is_told() -> None:
    calls: list[list[float]] = []
    entered, go = threading.Event(), threading.Event()

    def program(inputs: Arrays) -> Outputs:
        values = inputs["x"][:, 0].tolist()
        calls.append(values)
        if values == [0]:
            entered.set()
            assert go.wait(30)
        if 13 in values:
            raise ReplicaLost("was lost", retry_after_seconds=1.0)
        return {"y": 2 * inputs["x"]}

    async def body() -> None:
        async with running(program, workers=1) as batcher:
            first = asyncio.create_task(batcher.submit(rows(0)))
            assert await asyncio.to_thread(entered.wait, 30)
            tasks = [asyncio.create_task(batcher.submit(rows(value))) for value in (1, 13, 3)]
            while len(batcher) < 3:
                await asyncio.sleep(0)
            go.set()
            results = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert isinstance(results[2], ReplicaLost)
        assert [float(results[k]["y"][0, 0]) for k in (0, 1, 3)] == [0, 2, 6]
        assert calls == [[0], [1, 13, 3], [1], [13], [3]]

    scenario(body)


def test_without_a_worker_requests_wait_and_without_hope_they_are_told_why() -> None:
    async def body() -> None:
        async with running(lambda inputs: {"y": inputs["x"]}) as batcher:
            batcher.staff(0, back_seconds=1.0)
            waiting = [asyncio.create_task(batcher.submit(rows(value))) for value in (1, 2)]
            while len(batcher) < 2:
                await asyncio.sleep(0)
            batcher.staff(1)
            assert [float((await one)["y"][0, 0]) for one in waiting] == [1, 2]
            batcher.staff(0, back_seconds=1.0)
            unlucky = asyncio.create_task(batcher.submit(rows(3)))
            while len(batcher) < 1:
                await asyncio.sleep(0)
            batcher.staff(0, back_seconds=7.5, away="the last one was ended by SIGSEGV")
            for refused in (unlucky, batcher.submit(rows(4))):
                with pytest.raises(ReplicaLost, match="none runs: the last one was ended by SIGSEGV"):
                    await refused
            batcher.staff(2)
            assert float((await batcher.submit(rows(5)))["y"][0, 0]) == 5

    scenario(body)


def test_many_requests_while_workers_come_and_go_are_all_answered() -> None:
    numbers = itertools.count()

    def program(inputs: Arrays) -> Outputs:
        if next(numbers) % 7 == 3 and len(inputs["x"]) > 2:  # a call of several requests
            raise ReplicaLost("was lost", retry_after_seconds=1.0)
        return {"y": 2 * inputs["x"]}

    async def body() -> None:
        async with running(program, workers=3) as batcher:

            async def ask(k: int) -> bool:
                if k % 50 == 0:
                    batcher.staff(k // 50 % 4, back_seconds=0.1)
                answer = await batcher.submit(rows(k, k + 1))
                return bool((answer["y"] == 2 * rows(k, k + 1)["x"]).all())

            asking = [asyncio.create_task(ask(k)) for k in range(1000)]
            while sum(task.done() for task in asking) < 1000:
                batcher.staff(3)
                await asyncio.sleep(0)
            assert all(task.result() for task in asking)

    scenario(body)
