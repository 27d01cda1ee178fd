"""Decoding, where pictures are the bottleneck: who would wait too long for a thread is refused before he waits."""

from __future__ import annotations

import asyncio
import threading

import pytest
from anyio import CapacityLimiter

from hasten.core.errors import Overloaded
from hasten.serve.models import Model, Models, Wish
from hasten.serve.reload import Repository
from hasten.serve.service import Service, now


def service() -> tuple[Service, Model]:
    return Service(repository=Repository(models=Models([]), make=Model), pool=CapacityLimiter(1)), Model("toy", "1", None, objective=60.0)  # type: ignore[arg-type]


def test_a_line_of_pictures_that_is_too_long_is_refused_on_arrival() -> None:
    async def body() -> None:
        shared, model = service()
        entered, released = threading.Event(), threading.Event()

        def slow() -> str:
            entered.set()
            assert released.wait(30)
            return "decoded"

        tasks = [asyncio.create_task(shared.decode(model, Wish(arrived=now()), slow)) for _ in range(3)]
        assert await asyncio.to_thread(entered.wait, 30)
        shared.decode_seconds = 25.0  # two wait, and one is at it: the next is decoded in 75 s
        with pytest.raises(Overloaded, match="cannot be decoded by its deadline") as caught:
            await shared.decode(model, Wish(arrived=now()), slow)
        assert 10 < caught.value.retry_after_seconds < 20
        shared.decode_seconds = 15.0
        fourth = asyncio.create_task(shared.decode(model, Wish(arrived=now()), slow))
        released.set()
        assert await asyncio.gather(*tasks, fourth) == ["decoded"] * 4

    asyncio.run(asyncio.wait_for(body(), 60))


def test_what_is_too_late_when_a_thread_is_free_is_not_decoded() -> None:
    async def body() -> None:
        shared, model = service()
        with pytest.raises(Overloaded):
            await shared.decode(model, Wish(arrived=now() - 100), lambda: pytest.fail("it was decoded"))

    asyncio.run(asyncio.wait_for(body(), 60))


def test_the_time_of_a_picture_is_learnt() -> None:
    async def body() -> None:
        shared, model = service()
        shared.decode_seconds = 10.0
        for _ in range(100):
            await shared.decode(model, Wish(arrived=now()), lambda: None)
        assert shared.decode_seconds < 1.0

    asyncio.run(asyncio.wait_for(body(), 60))


def test_an_idle_pool_tries_what_it_believes_to_be_too_slow() -> None:
    async def body() -> None:
        shared, model = service()
        shared.decode_seconds = 1000.0  # as after a stall of the machine
        assert await shared.decode(model, Wish(arrived=now()), lambda: "decoded") == "decoded"
        assert shared.decode_seconds < 1000.0

    asyncio.run(asyncio.wait_for(body(), 60))
