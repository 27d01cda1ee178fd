"""The queue as clients meet it: refusals with Retry-After, several models and versions, clients that go away, and the end."""

from __future__ import annotations

import http.client
import math
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import bundles
import httpx
import pytest
import serving
from serving import Held
from starlette.applications import Starlette

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.errors import JobError, NotPossibleHere
from hasten.serve.app import create_app
from hasten.serve.models import Model, Wish
from hasten.serve.options import ServeOptions
from hasten.serve.run import serve
from hasten.serve.schedule import Priority
from hasten.serve.service import Limits

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets.*")

INFER = "/v2/models/toy-model/infer"
ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def asking(timeout_us: int) -> dict[str, object]:
    return {**ONE, "parameters": {"timeout": timeout_us}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("null")
    return write(bundles.null_contents(folder), folder / "out")


@pytest.fixture
def held(path: Path) -> Iterator[tuple[Held, Bundle]]:
    program, bundle = Held("y", 3), Bundle.open(path)
    bundle.__dict__["_program"] = program
    yield program, bundle
    program.released.set()


def post(url: str, body: object = ONE) -> httpx.Response:
    return httpx.post(url + INFER, json=body, timeout=60)


def model_of(app: Starlette) -> Model:
    return app.state.service.models.get("toy-model")  # type: ignore[no-any-return]


def until_waiting(app: Starlette, url: str, count: int) -> None:
    """Ask for health until so many requests wait: each answer shows that the event loop went on."""
    batcher = model_of(app)._batcher
    assert batcher is not None
    for _ in range(10_000):
        if len(batcher) == count:
            return
        httpx.get(url + "/v2/health/live")
    raise AssertionError(f"{len(batcher)} requests wait, not {count}")


def test_full_queue_is_429_and_late_is_503_both_with_retry_after(held: tuple[Held, Bundle]) -> None:
    program, bundle = held
    app = create_app(bundle, max_queue=1)
    with serving.here(app) as (_, url), ThreadPoolExecutor(2) as pool:
        program.hold()
        first = pool.submit(post, url)
        assert program.entered.wait(30)
        second = pool.submit(post, url)
        until_waiting(app, url, 1)
        full, late = post(url), post(url, asking(1) | {"parameters": {"timeout": 1, "priority": 2}})
        program.released.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]
    assert (full.status_code, late.status_code) == (429, 503)
    assert full.json()["error"].startswith("request: 1 requests wait already. Come again in")
    assert late.json()["error"].startswith("request: cannot be answered by its deadline. Come again in")
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in (full, late))


def test_requests_that_wait_share_the_next_call(held: tuple[Held, Bundle]) -> None:
    program, bundle = held
    app = create_app(bundle)
    with serving.here(app) as (_, url), ThreadPoolExecutor(5) as pool:
        program.hold()
        first = pool.submit(post, url)
        assert program.entered.wait(30)
        rest = [pool.submit(post, url) for _ in range(4)]
        until_waiting(app, url, 4)
        program.released.set()
        answers = [future.result().json()["outputs"][0]["shape"] for future in (first, *rest)]
    assert answers == [[1, 3]] * 5
    assert sum(program.sizes) == 5


def test_a_client_that_goes_away_takes_its_request_along(held: tuple[Held, Bundle]) -> None:
    program, bundle = held
    app = create_app(bundle)
    with serving.here(app) as (_, url), ThreadPoolExecutor(1) as pool:
        program.hold()
        first = pool.submit(post, url)
        assert program.entered.wait(30)
        where = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port)
        connection.request("POST", INFER, httpx.Request("POST", url, json=ONE).content, {"content-type": "application/json"})
        until_waiting(app, url, 1)
        connection.close()
        until_waiting(app, url, 0)
        program.released.set()
        assert first.result().status_code == 200
    assert program.sizes == [1]


def test_a_server_that_is_told_to_stop_answers_who_waits(held: tuple[Held, Bundle]) -> None:
    program, bundle = held
    app = create_app(bundle)
    with serving.here(app) as (server, url), ThreadPoolExecutor(3) as pool:
        program.hold()
        asked: list[Future[httpx.Response]] = [pool.submit(post, url)]
        assert program.entered.wait(30)
        asked += [pool.submit(post, url) for _ in range(2)]
        until_waiting(app, url, 2)
        server.should_exit = True
        program.released.set()
        assert [future.result().status_code for future in asked] == [200, 200, 200]
    with pytest.raises(httpx.ConnectError):
        post(url)


def test_bodies_that_are_held_are_bounded(held: tuple[Held, Bundle]) -> None:
    program, bundle = held
    size = len(httpx.Request("POST", "http://here", json=ONE).content)
    app = create_app(bundle, limits=Limits(held_bytes=size * 3 // 2))
    with serving.here(app) as (_, url), ThreadPoolExecutor(1) as pool:
        program.hold()
        first = pool.submit(post, url)
        assert program.entered.wait(30)
        refused = post(url)
        program.released.set()
        assert first.result().status_code == 200
        assert refused.status_code == 429
        assert "bytes of requests are held already" in refused.json()["error"]
        assert post(url).status_code == 200


def test_several_models_and_versions_in_one_process(path: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    other = write(bundles.tensor_contents(tmp_path / "parts"), tmp_path / "out")
    with serving.process(path, f"other={other}", f"other={path}", path) as (_, (url,)), httpx.Client(base_url=url) as client:
        assert client.get("/v2/models/toy-model").json()["versions"] == ["1", "2"]
        assert client.get("/v2/models/other").json()["versions"] == ["1", "2"]
        assert [tensor["name"] for tensor in client.get("/v2/models/other/versions/1").json()["inputs"]] == [
            "left",
            "right",
            "ids",
            "flags",
        ]
        assert [tensor["name"] for tensor in client.get("/v2/models/other").json()["inputs"]] == ["x"]  # the newest
        for version, answered in (("", "2"), ("/versions/1", "1"), ("/versions/2", "2")):
            answer = client.post(f"/v2/models/toy-model{version}/infer", json=ONE).json()
            assert (answer["model_name"], answer["model_version"]) == ("toy-model", answered)
        unnamed = client.post("/v1/predict", json={"inputs": {"x": [[1, 2]]}})
        assert (unnamed.status_code, unnamed.json()["error"]) == (400, "model: must be named: one of toy-model, other.")
        named = client.post("/v1/predict?model=toy-model", json={"inputs": {"x": [[1, 2]]}}).json()
        assert named == {"outputs": {"y": [[0.0, 0.0, 0.0]]}}
        assert 'href="/?model=other"' in client.get("/").text


def test_objective_and_names_are_checked_before_anything_is_served(path: Path) -> None:
    with pytest.raises(JobError, match="--slo: must be a duration, but got 'soon'"):
        serve(path, options=ServeOptions(slo="soon", port=0))
    with pytest.raises(JobError, match="name: must be letters, digits"):
        serve(f"a b={path}", options=ServeOptions(port=0))


def test_an_objective_that_one_sample_does_not_keep_is_refused(path: Path) -> None:
    model = Model("toy", "1", Bundle.open(path), objective=1e-9)
    with pytest.raises(NotPossibleHere, match=r"--slo: must be longer than one sample takes here, .*s, but got"):
        model.load()


def test_bulk_has_no_objective_but_its_own() -> None:
    model = Model("toy", "1", None, objective=0.5)  # type: ignore[arg-type]
    assert model.deadline(Wish(arrived=10.0)) == 10.5
    assert model.deadline(Wish(arrived=10.0, timeout=0.1)) == 10.1
    assert model.deadline(Wish(arrived=10.0, priority=Priority.BULK)) == math.inf
    assert model.deadline(Wish(arrived=10.0, timeout=9.0, priority=Priority.BULK)) == 19.0
