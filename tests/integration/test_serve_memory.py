"""Several models within a budget: who was asked least recently makes room, and nobody is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import bundles
import httpx
import pytest
from starlette.applications import Starlette

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.errors import JobError, NotPossibleHere
from hasten.serve.app import create_app
from hasten.serve.options import ServeOptions
from hasten.serve.reload import EVICTED, footprint
from hasten.serve.run import serve

ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("null")
    return write(bundles.null_contents(folder), folder / "out")


def served(path: Path, fit: int) -> Starlette:
    """Three models, of which so many fit."""
    opened = [Bundle.open(path) for _ in NAMES]
    return create_app(*opened, names=NAMES, memory_bytes=footprint(opened[0]) * (fit + 0.5))


def asked(app: Starlette, body: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client,
        ):
            await body(client)

    asyncio.run(asyncio.wait_for(run(), 120))


def loaded(app: Starlette) -> list[str]:
    return [model.name for model in app.state.service.models if model.ready]


async def infer(client: httpx.AsyncClient, name: str) -> int:
    return (await client.post(f"/v2/models/{name}/infer", json=ONE)).status_code


def test_the_least_recently_asked_makes_room(path: Path) -> None:
    app = served(path, 2)

    async def body(client: httpx.AsyncClient) -> None:
        assert loaded(app) == ["a", "b"]
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        index = (await client.post("/v2/repository/index")).json()
        assert [(entry["name"], entry["state"], entry["reason"]) for entry in index][2] == ("c", "UNAVAILABLE", EVICTED)
        assert (await client.get("/v2/models/c/ready")).json() == {"name": "c", "ready": False}
        assert (await client.get("/v2/models/c")).status_code == 200
        assert [await infer(client, name) for name in ("b", "a", "c")] == [200] * 3
        assert loaded(app) == ["a", "c"]
        assert await infer(client, "b") == 200
        assert loaded(app) == ["b", "c"]

    asked(app, body)


def test_models_that_take_turns_answer_everybody(path: Path) -> None:
    """Thirty at once for three models of which one fits: each waits for its turn, none fails, and never are two loaded."""
    app = served(path, 1)

    async def body(client: httpx.AsyncClient) -> None:
        most = 0

        async def ask(name: str) -> int:
            nonlocal most
            status = await infer(client, name)
            most = max(most, len(loaded(app)))
            return status

        assert await asyncio.gather(*(ask(name) for name in NAMES * 10)) == [200] * 30
        assert most == 1

    asked(app, body)


def test_a_model_that_cannot_be_loaded_again_is_an_error_and_the_next_is_answered(path: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    other = write(bundles.null_contents(tmp_path / "parts"), tmp_path / "other")
    first, second = Bundle.open(path), Bundle.open(other)
    app = create_app(first, second, names=["a", "b"], memory_bytes=footprint(first) * 1.5)

    async def body(client: httpx.AsyncClient) -> None:
        (other / "manifest.json").rename(tmp_path / "kept")
        reply = await client.post("/v2/models/b/infer", json=ONE)
        assert (reply.status_code, reply.json()["error"].startswith("b: cannot be loaded again: ")) == (500, True)
        assert await infer(client, "a") == 200
        (tmp_path / "kept").rename(other / "manifest.json")
        assert await infer(client, "b") == 200

    asked(app, body)


def test_a_budget_that_one_model_exceeds_is_refused(path: Path) -> None:
    with pytest.raises(NotPossibleHere, match="--memory: must be at least"):
        create_app(Bundle.open(path), memory_bytes=1)
    with pytest.raises(JobError, match="--memory: must be a size"):
        serve(path, options=ServeOptions(memory="much", port=0))
