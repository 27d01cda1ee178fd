"""The batcher with real threads and an event loop: programs that wait for a signal instead of for time."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from hasten.core.errors import HastenError, Overloaded, QueueFull
from hasten.core.seams import Arrays
from hasten.serve.batcher import Batcher, Outputs
from hasten.serve.curve import Curve
from hasten.serve.schedule import Priority, Schedule

GATE = -1.0  # a sample of this value waits in the program until it is let go


class Doubling:
    """y = 2 x, row by row. It keeps what it was called with; a sample GATE holds the call up; one that is NaN breaks it."""

    def __init__(self) -> None:
        self.calls: list[Arrays] = []
        self.threads: set[int] = set()
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, inputs: Arrays) -> Outputs:
        self.calls.append(inputs)
        self.threads.add(threading.get_ident())
        if (inputs["x"] == GATE).any():
            self.entered.set()
            assert self.open.wait(30)
        if np.isnan(inputs["x"]).any():
            raise ZeroDivisionError("poisoned")
        return {"y": 2 * inputs["x"], "first": inputs["x"][:, 0]}

    @property
    def sizes(self) -> list[int]:
        return [len(call["x"]) for call in self.calls]


def rows(*values: float, width: int = 2) -> Arrays:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}


@asynccontextmanager
async def running(program: Callable[[Arrays], Outputs], *, shares: bool = True, **knobs: float) -> AsyncIterator[Batcher]:
    curve = Curve({2**k: 0.001 + 0.0001 * 2**k for k in range(5)})  # best batch: 16
    batcher = Batcher(program, Schedule(curve, elements=2, **knobs), shares=shares)  # type: ignore[arg-type]
    batcher.start()
    yield batcher
    await batcher.drain()


@asynccontextmanager
async def held(program: Doubling, batcher: Batcher) -> AsyncIterator[asyncio.Task[Outputs]]:
    """A call is under way, and ends when this does."""
    first = asyncio.create_task(batcher.submit(rows(GATE)))
    assert await asyncio.to_thread(program.entered.wait, 30)
    yield first
    program.open.set()
    await first


async def settled() -> None:
    """Until everything that could be done without the program was done."""
    for _ in range(10):
        await asyncio.sleep(0)


def scenario(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))  # type: ignore[arg-type]


def test_each_request_gets_its_own_rows() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program) as batcher:
            async with held(program, batcher):
                sizes = [1, 3, 2, 1, 4]
                waiting = [asyncio.create_task(batcher.submit(rows(*(10 * k + j for j in range(n))))) for k, n in enumerate(sizes)]
                await settled()
            for k, (n, task) in enumerate(zip(sizes, waiting, strict=True)):
                answer = await task
                np.testing.assert_array_equal(answer["y"], 2 * rows(*(10 * k + j for j in range(n)))["x"])
                np.testing.assert_array_equal(answer["first"], [10 * k + j for j in range(n)])
        assert program.sizes == [1, 11]
        assert len(program.threads) == 1

    scenario(body)


def test_a_lone_request_is_passed_on_as_it_is() -> None:
    async def body() -> None:
        program, inputs = Doubling(), rows(1, 2)
        async with running(program) as batcher:
            await batcher.submit(inputs)
        assert program.calls[0]["x"] is inputs["x"]

    scenario(body)


def test_a_large_request_is_several_calls_and_one_answer() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program) as batcher:
            answer = await batcher.submit(rows(*range(50)))
        np.testing.assert_array_equal(answer["y"], 2 * rows(*range(50))["x"])
        assert max(program.sizes) <= 16
        assert sum(program.sizes) == 50

    scenario(body)


def test_where_one_part_of_a_large_request_is_refused_nothing_of_it_stays_in_line() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program, max_queue=1) as batcher, held(program, batcher):
            with pytest.raises(QueueFull):
                await batcher.submit(rows(*range(100)))
            await settled()
            assert len(batcher) == 0
        assert program.sizes == [1]

    scenario(body)


def test_a_request_with_more_parts_than_may_wait_is_answered() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program, max_queue=2) as batcher:
            answer = await batcher.submit(rows(*range(1000)), priority=Priority.BULK)
        np.testing.assert_array_equal(answer["y"], 2 * rows(*range(1000))["x"])
        assert max(program.sizes) <= 16

    scenario(body)


def test_a_large_request_that_cannot_be_whole_by_its_deadline_is_refused_before_any_of_it_is_computed() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program) as batcher:  # a call of 16 takes 2.6 ms
            with pytest.raises(Overloaded, match="cannot be answered by its deadline"):
                await batcher.submit(rows(*range(1600)), deadline=time.monotonic() + 0.1)
        assert program.sizes == []

    scenario(body)


def test_shapes_are_never_mixed() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program) as batcher:
            async with held(program, batcher):
                tasks = [asyncio.create_task(batcher.submit(rows(k, width=2 + k % 3))) for k in range(9)]
                await settled()
            for k, task in enumerate(tasks):
                np.testing.assert_array_equal((await task)["y"], np.full((1, 2 + k % 3), 2 * k))
        assert sorted(program.sizes) == [1, 3, 3, 3]

    scenario(body)


def test_a_model_whose_samples_may_not_share_a_call_gets_each_request_alone() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program, shares=False) as batcher:
            async with held(program, batcher):
                tasks = [asyncio.create_task(batcher.submit(rows(*range(n)))) for n in (1, 40, 2)]
                await settled()
            assert [len((await task)["y"]) for task in tasks] == [1, 40, 2]
        assert program.sizes == [1, 1, 40, 2]

    scenario(body)


def test_a_poisoned_request_fails_alone() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program) as batcher:
            async with held(program, batcher):
                tasks = [asyncio.create_task(batcher.submit(rows(value))) for value in (1, math.nan, 3)]
                await settled()
            np.testing.assert_array_equal((await tasks[0])["y"], [[2, 2]])
            np.testing.assert_array_equal((await tasks[2])["y"], [[6, 6]])
            with pytest.raises(ZeroDivisionError, match="poisoned"):
                await tasks[1]
            np.testing.assert_array_equal((await batcher.submit(rows(5)))["y"], [[10, 10]])
        assert program.sizes == [1, 3, 1, 1, 1, 1]

    scenario(body)


def test_a_program_that_loses_rows_is_an_error_and_no_wrong_answer() -> None:
    async def body() -> None:
        gate = Doubling()

        def short(inputs: Arrays) -> Outputs:
            outputs = gate(inputs)
            return {"y": outputs["y"][:1]} if len(inputs["x"]) > 1 else outputs

        async with running(short) as batcher:
            async with held(gate, batcher):
                tasks = [asyncio.create_task(batcher.submit(rows(k))) for k in (1, 2)]
                await settled()
            assert [float((await task)["y"][0, 0]) for task in tasks] == [2, 4]  # each was tried alone
        assert gate.sizes == [1, 2, 1, 1]

    scenario(body)


def test_who_goes_away_while_waiting_leaves_the_queue() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program) as batcher:
            async with held(program, batcher):
                gone, stays = (asyncio.create_task(batcher.submit(rows(k))) for k in (1, 2))
                await settled()
                gone.cancel()
                await settled()
                assert len(batcher) == 1
            np.testing.assert_array_equal((await stays)["y"], [[4, 4]])
            assert gone.cancelled()
        assert program.sizes == [1, 1]

    scenario(body)


def test_who_goes_away_in_the_middle_of_a_call_harms_nobody() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program) as batcher:
            task = asyncio.create_task(batcher.submit(rows(GATE)))
            assert await asyncio.to_thread(program.entered.wait, 30)
            task.cancel()
            await settled()
            program.open.set()
            np.testing.assert_array_equal((await batcher.submit(rows(7)))["y"], [[14, 14]])
            assert task.cancelled()

    scenario(body)


def test_more_than_may_wait_are_refused_at_once() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program, max_queue=3) as batcher:
            async with held(program, batcher):
                tasks = [asyncio.create_task(batcher.submit(rows(k))) for k in range(3)]
                await settled()
                with pytest.raises(QueueFull) as caught:
                    await batcher.submit(rows(9))
                assert caught.value.retry_after_seconds > 0
                bulk = asyncio.create_task(batcher.submit(rows(8), priority=Priority.BULK))
                await settled()
                assert len(batcher) == 4
            assert len(await asyncio.gather(*tasks, bulk)) == 4

    scenario(body)


def test_what_became_hopeless_in_line_is_refused_and_not_computed() -> None:
    async def body() -> None:
        program, now = Doubling(), [0.0]
        curve = Curve({1: 0.001})
        batcher = Batcher(program, Schedule(curve, elements=2), clock=lambda: now[0])
        batcher.start()
        async with held(program, batcher):
            waiting = asyncio.create_task(batcher.submit(rows(1), deadline=1.0))
            await settled()
            now[0] = 5.0
        with pytest.raises(Overloaded, match="could not be answered by its deadline"):
            await waiting
        with pytest.raises(Overloaded, match="cannot be answered by its deadline"):
            await batcher.submit(rows(2), deadline=4.0)
        await batcher.drain()
        assert program.sizes == [1]

    scenario(body)


def test_what_19_of_20_deliveries_take_is_set_aside() -> None:
    batcher = Batcher(Doubling(), Schedule(Curve({1: 0.001})))
    seconds = np.random.default_rng(0).exponential(0.001, size=4000)
    for one in seconds:
        batcher._delivered(float(one))
    assert 0.9 < (seconds < batcher._delivery).mean() < 0.985


def test_a_request_that_cannot_be_delivered_in_time_is_refused() -> None:
    async def body() -> None:
        now = [0.0]
        batcher = Batcher(Doubling(), Schedule(Curve({1: 0.010}), elements=2), clock=lambda: now[0])
        for _ in range(500):
            batcher._delivered(0.002)
        with pytest.raises(Overloaded, match="cannot be answered by its deadline"):
            await batcher.submit(rows(1), deadline=0.0105)  # computed by then, and not in the sender's hands

    scenario(body)


@pytest.mark.parametrize("waiting", [0, 3, 15, 16, 40])
def test_who_is_told_to_be_in_time_before_he_is_read_is_taken_and_nobody_else(waiting: int) -> None:
    """The forecast and the queue count alike, the time of the delivery included: who is let in is not refused a moment later."""

    async def body() -> None:
        now, program = [0.0], Doubling()
        curve = Curve({2**k: 0.001 + 0.0001 * 2**k for k in range(5)})
        batcher = Batcher(program, Schedule(curve, elements=2), clock=lambda: now[0])
        for _ in range(500):
            batcher._delivered(0.002)
        batcher.start()
        async with held(program, batcher):
            tasks = [asyncio.create_task(batcher.submit(rows(k))) for k in range(waiting)]
            await settled()
            late = batcher.lateness(deadline=0.0, priority=Priority.BULK, ready=0.0)
            for deadline in np.linspace(0.5 * late, 1.5 * late + 0.01, 21):
                told = batcher.lateness(deadline=deadline, priority=Priority.BULK, ready=0.0)
                task = asyncio.create_task(batcher.submit(rows(7), deadline=deadline, priority=Priority.BULK))
                await settled()
                assert task.done() == (told > 0), (deadline, told)
                if task.done():
                    assert isinstance(task.exception(), Overloaded)
                task.cancel()
                await settled()
        await asyncio.gather(*tasks)
        await batcher.drain()

    scenario(body)


def test_draining_answers_who_was_taken_and_refuses_who_comes() -> None:
    async def body() -> None:
        program = Doubling()
        async with running(program) as batcher:
            async with held(program, batcher) as first:
                second = asyncio.create_task(batcher.submit(rows(2)))
                large = asyncio.create_task(batcher.submit(rows(*range(100))))
                await settled()
                ending = asyncio.create_task(batcher.drain())
                await settled()
                with pytest.raises(Overloaded, match="comes while the server stops"):
                    await batcher.submit(rows(3))
                assert not ending.done()
            np.testing.assert_array_equal((await second)["y"], [[4, 4]])
            np.testing.assert_array_equal((await large)["y"], 2 * rows(*range(100))["x"])
            assert first.done()
            await ending

    scenario(body)


def test_many_clients_at_once_each_get_their_own() -> None:
    async def body() -> None:
        program = Doubling()

        async def ask(batcher: Batcher, k: int) -> bool:
            inputs = rows(*(1000 * k + j for j in range(1 + k % 5)), width=2 + k % 2)
            answer = await batcher.submit(inputs, priority=Priority(k % 2))
            return np.array_equal(answer["y"], 2 * inputs["x"])

        async with running(program) as batcher:
            assert all(await asyncio.gather(*(ask(batcher, k) for k in range(500))))
        assert len(program.calls) < 500

    scenario(body)


def test_errors_of_ours_pass_unchanged() -> None:
    async def body() -> None:
        def refuses(inputs: Arrays) -> Outputs:
            raise HastenError("output 'y'", "holds NaN")

        async with running(refuses) as batcher:
            with pytest.raises(HastenError, match="holds NaN"):
                await batcher.submit(rows(1))

    scenario(body)
