"""Versions that share requests: splits with sticky keys, shadows, canaries that are rolled back, and labels that decide."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import bundles
import httpx
import numpy as np
import pytest
import serving
from starlette.applications import Starlette

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.errors import JobError
from hasten.core.seams import Arrays, Program
from hasten.serve.app import create_app
from hasten.serve.models import Wish
from hasten.serve.reload import footprint
from hasten.serve.traffic import read_traffic

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets.*")

INFER = "/v2/models/toy/infer"
ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


class Says(Program):
    """The same three numbers for every sample, after it was let go on; it can be told to fail."""

    def __init__(self, *numbers: float) -> None:
        self._row = np.array(numbers, np.float32)
        self.fails, self.calls = False, 0
        self.released = threading.Event()
        self.released.set()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        assert self.released.wait(30)
        self.calls += 1
        if self.fails:
            raise RuntimeError("broken")
        return {"y": np.tile(self._row, (len(inputs["x"]), 1))}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two numbers into three classes."""
    folder = tmp_path_factory.mktemp("classes")
    return write(bundles.null_contents(folder, metric="accuracy", labels=("cat", "dog", "owl")), folder / "out")


def served(path: Path, *programs: Program, **options: Any) -> Starlette:
    opened = [Bundle.open(path) for _ in programs]
    for bundle, program in zip(opened, programs, strict=True):
        bundle.__dict__["_program"] = program
    return create_app(*opened, names=["toy"] * len(programs), traffic=read_traffic(**options))


def asked(app: Starlette, body: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """`body` with a client of `app`, without a socket, on one event loop."""

    async def run() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # the server's own failures are answers
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            await body(client)

    asyncio.run(asyncio.wait_for(run(), 120))


async def settled(app: Starlette) -> None:
    await app.state.service.router.routes["toy"].shadow.settled()


async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    (found,) = (await client.get("/api/v1/experiments")).json()["experiments"]
    return found  # type: ignore[no-any-return]


def test_a_split_answers_by_its_shares_and_says_which_version(path: Path) -> None:
    app = served(path, Says(1, 0, 0), Says(0, 1, 0), split=["toy@1=1,toy@2=3"])

    async def body(client: httpx.AsyncClient) -> None:
        replies = [await client.post(INFER, json=ONE) for _ in range(400)]
        counts = Counter(reply.headers["hasten-model-version"] for reply in replies)
        assert 240 < counts["2"] < 360  # 300, five standard deviations of 8.7 and a little
        for reply in replies:
            answer = reply.json()
            assert answer["model_version"] == reply.headers["hasten-model-version"]
            assert answer["outputs"][0]["data"] == ([1, 0, 0] if answer["model_version"] == "1" else [0, 1, 0])
        assert (await client.post("/v2/models/toy/versions/1/infer", json=ONE)).json()["model_version"] == "1"
        sticky = {key: (await client.post(INFER, json=ONE, headers={"hasten-sticky-key": key})).json() for key in "abcdefgh" * 2}
        for key, answer in sticky.items():
            again = await client.post("/v1/predict", json={"inputs": {"x": [[1, 2]]}}, headers={"hasten-sticky-key": key})
            assert again.headers["hasten-model-version"] == answer["model_version"]
        assert len({answer["model_version"] for answer in sticky.values()}) == 2

    asked(app, body)


def test_grpc_sticks_to_the_same_version_as_http(path: Path) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    with serving.process(f"toy={path}", f"toy={path}", grpc=True, split=["toy@1=1,toy@2=1"]) as (_, (url, grpc_url)):
        x = grpc.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.ones((1, 2), np.float32))
        with grpc.InferenceServerClient(grpc_url.removeprefix("grpc://")) as client:
            for key in "abcdefgh":
                over_http = httpx.post(url + INFER, json=ONE, headers={"hasten-sticky-key": key}).json()["model_version"]
                answer = client.infer("toy", [x], headers={"hasten-sticky-key": key}).get_response()
                assert answer.model_version == over_http
                assert len(answer.id) == 32


def test_a_shadow_is_compared_and_answers_nobody(path: Path) -> None:
    app = served(path, Says(1, 0, 0), Says(1.001, 0, 0), shadow=["toy@2"])

    async def body(client: httpx.AsyncClient) -> None:
        for _ in range(5):
            assert (await client.post(INFER, json=ONE)).json()["model_version"] == "1"
            await settled(app)
        shadow = (await document(client))["shadow"]
        assert shadow["version"] == "2"
        assert shadow["outcomes"] == {"same": 5, "different": 0, "failed": 0, "left out": 0}
        assert shadow["worst_difference"] == pytest.approx(0.001, rel=1e-3)
        counted = (await client.get("/metrics")).text
        assert 'hasten_shadow_copies_total{model="toy",outcome="same",version="2"} 5.0' in counted

    asked(app, body)


@pytest.mark.parametrize(("other", "outcome"), [((0, 1, 0), "different"), ((1.2, 0, 0), "different"), (None, "failed")])
def test_a_shadow_that_is_wrong_or_broken_harms_nobody(path: Path, other: tuple[float, ...] | None, outcome: str) -> None:
    shadow = Says(*(other or (1, 0, 0)))
    app = served(path, Says(1, 0, 0), shadow, shadow=["toy@2"])

    async def body(client: httpx.AsyncClient) -> None:
        shadow.fails = other is None
        assert (await client.post(INFER, json=ONE)).json()["outputs"][0]["data"] == [1, 0, 0]
        await asyncio.gather(settled(app), return_exceptions=True)
        assert (await document(client))["shadow"]["outcomes"][outcome] == 1

    asked(app, body)


def test_a_shadow_that_hangs_delays_nobody_and_holds_one_copy(path: Path) -> None:
    shadow = Says(1, 0, 0)
    app = served(path, Says(1, 0, 0), shadow, shadow=["toy@2"])

    async def body(client: httpx.AsyncClient) -> None:
        before = shadow.calls
        shadow.released.clear()
        for _ in range(50):
            assert (await client.post(INFER, json=ONE)).status_code == 200
        assert shadow.calls == before
        shadow.released.set()
        await settled(app)
        assert (await document(client))["shadow"]["outcomes"] == {"same": 1, "different": 0, "failed": 0, "left out": 49}

    asked(app, body)


def test_a_canary_that_fails_is_rolled_back_and_the_rest_is_answered(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    canary = Says(1, 0, 0)
    app = served(path, Says(1, 0, 0), canary, canary=["toy@2=20"])

    async def body(client: httpx.AsyncClient) -> None:
        assert (await document(client))["weights"] == {"1": 0.8, "2": 0.2}
        for _ in range(30):
            assert (await client.post(INFER, json=ONE)).status_code == 200
        canary.fails = True
        statuses = [(await client.post(INFER, json=ONE)).status_code for _ in range(600)]
        assert 3 <= statuses.count(500) <= 40, "enough to be sure, and no more"
        assert statuses[-300:] == [200] * 300
        found = await document(client)
        assert found["weights"] == {"1": 1.0}
        assert found["canary"]["rolled_back"].startswith("failures: ")
        assert found["canary"]["canary"]["failed"] == statuses.count(500)
        assert 'hasten_canary_rollbacks_total{cause="failures",model="toy",version="2"} 1.0' in (await client.get("/metrics")).text

    asked(app, body)
    (told,) = [record.getMessage() for record in caplog.records if "rolled back" in record.getMessage()]
    assert told.startswith("toy version 2 was rolled back: failures: ")


def test_labels_end_an_experiment_with_a_decision_and_its_interval(path: Path) -> None:
    """Version 2 is right whenever the truth is a dog, version 1 never is."""
    app = served(path, Says(1, 0, 0), Says(0, 1, 0), split=["toy@1=1,toy@2=1"])

    async def body(client: httpx.AsyncClient) -> None:
        for k in range(60):
            reply = await client.post(INFER, json=ONE)
            label: Any = "dog" if k % 2 else 1
            judged = await client.post("/api/v1/feedback", json={"request_id": reply.headers["x-request-id"], "label": label})
            assert judged.json()["correct"] == [reply.json()["model_version"] == "2"]
        experiment = (await document(client))["experiment"]
        (comparison,) = experiment["comparisons"]
        decision = comparison["decision"]
        assert (decision["word"], decision["difference"]["level"]) == ("better", 0.95)
        assert 0 < decision["difference"]["low"] <= decision["difference"]["value"] == decision["difference"]["high"] == 1.0
        assert decision["num_labels"] < 60
        assert comparison["difference"]["low"] > decision["difference"]["low"], "the interval goes on shrinking, the decision stays"
        assert sum(version["labelled"] for version in experiment["versions"].values()) == 60

    asked(app, body)


def test_a_label_counts_once_and_only_for_who_was_drawn(path: Path) -> None:
    app = served(path, Says(1, 0, 0), Says(0, 1, 0), split=["toy@1=1,toy@2=1"])

    async def body(client: httpx.AsyncClient) -> None:
        async def label(request_id: str, label: Any = 0) -> httpx.Response:
            return await client.post("/api/v1/feedback", json={"request_id": request_id, "label": label})

        await client.post("/v2/models/toy/versions/1/infer", json=ONE, headers={"x-request-id": "chosen"})
        assert (await label("chosen")).json() == {"request_id": "chosen", "model": "toy", "version": "1", "correct": [True]}
        await client.post(INFER, json={**ONE, "id": "drawn"})
        assert (await label("drawn", "cow")).status_code == 400
        assert (await label("drawn", [0, 1])).status_code == 400
        assert (await label("drawn", True)).status_code == 400
        assert (await label("drawn", 3)).status_code == 400
        assert (await label("drawn")).status_code == 200
        again = await label("drawn")
        assert (again.status_code, again.headers["content-type"]) == (404, "application/problem+json")
        versions = (await document(client))["experiment"]["versions"]
        assert sum(version["labelled"] for version in versions.values()) == 1

    asked(app, body)


def test_openapi_says_what_feedback_is_answered(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    app = served(path, Says(1, 0, 0), Says(0, 1, 0), split=["toy@1=1,toy@2=1"])

    async def body(client: httpx.AsyncClient) -> None:
        schemas = (await client.get("/api/v1/openapi.json")).json()
        await client.post(INFER, json={**ONE, "id": "a"})
        for content, status in (({"request_id": "a", "label": 0}, 200), ({"request_id": "a", "label": 0}, 404), ({"label": 0}, 400)):
            reply = await client.post("/api/v1/feedback", json=content)
            assert reply.status_code == status
            answer = schemas["paths"]["/api/v1/feedback"]["post"]["responses"][str(status)]["content"]
            (kind,) = answer
            assert reply.headers["content-type"] == kind
            jsonschema.Draft202012Validator({**answer[kind]["schema"], "components": schemas["components"]}).validate(reply.json())

    asked(app, body)


def test_answers_that_wait_for_labels_are_bounded(path: Path) -> None:
    app = served(path, Says(1, 0, 0))
    app.state.service.router.answers._most = 10

    async def body(client: httpx.AsyncClient) -> None:
        for k in range(30):
            await client.post(INFER, json={**ONE, "id": str(k)})
        assert len(app.state.service.router.answers) == 10
        assert (await client.post("/api/v1/feedback", json={"request_id": "19", "label": 0})).status_code == 404
        assert (await client.post("/api/v1/feedback", json={"request_id": "20", "label": 0})).status_code == 200

    asked(app, body)


def test_what_was_seen_of_a_version_is_forgotten_when_it_is_loaded_anew(path: Path) -> None:
    canary = Says(0, 1, 0)
    app = served(path, Says(1, 0, 0), canary, canary=["toy@2=50"])

    async def body(client: httpx.AsyncClient) -> None:
        canary.fails = True
        for _ in range(100):
            await client.post(INFER, json=ONE)
        before = await client.post(INFER, json={**ONE, "id": "before"})
        assert before.status_code == 200
        assert (await document(client))["canary"]["rolled_back"]
        await app.state.service.repository.load("toy", version="2")
        after = await document(client)
        assert (after["weights"], after["canary"]["rolled_back"]) == ({"1": 0.5, "2": 0.5}, None)

    asked(app, body)


def test_a_canary_that_was_rolled_back_stays_so_when_others_change_or_it_was_evicted(path: Path) -> None:
    app = served(path, Says(0, 0, 0), Says(0, 0, 0), canary=["toy@2=50"])
    service = app.state.service
    service.repository.memory_bytes = 1.5 * footprint(Bundle.open(path))

    async def body(client: httpx.AsyncClient) -> None:
        await client.post(INFER, json=ONE)
        service.router.routes["toy"].canary.rolled_back = "failures: as a test says"
        await service.repository.load("toy", version="1")
        evicted = service.models.get("toy", "2")
        assert evicted.evicted
        assert (await client.post("/v2/models/toy/versions/2/infer", json=ONE)).status_code == 200
        assert service.models.get("toy", "2") is not evicted
        assert (await document(client))["weights"] == {"1": 1.0}
        await service.repository.load("toy", version="2")
        assert (await document(client))["weights"] == {"1": 0.5, "2": 0.5}

    asked(app, body)


def test_who_is_under_way_ends_on_the_old_version_while_the_new_one_answers(path: Path) -> None:
    old = Says(1, 0, 0)
    app = served(path, old)

    async def body(client: httpx.AsyncClient) -> None:
        before = app.state.service.models.get("toy")
        old.released.clear()
        under_way = asyncio.create_task(client.post(INFER, json=ONE))
        while not before._holders:
            await asyncio.sleep(0)
        loading = asyncio.create_task(app.state.service.repository.load("toy"))
        while app.state.service.models.get("toy") is before:
            await asyncio.sleep(0)
        assert (await client.post(INFER, json=ONE)).json()["outputs"][0]["data"] == [0, 0, 0], "what the bundle itself computes"
        assert not loading.done()
        assert not under_way.done()
        old.released.set()
        await loading
        assert (await under_way).json()["outputs"][0]["data"] == [1, 0, 0]
        assert not before.ready

    asked(app, body)


def test_who_has_been_given_a_version_keeps_it_until_he_is_done(path: Path) -> None:
    """Between the choice and the call a request decodes its input: it waits in no queue, and its version must not go."""
    app = served(path, Says(1, 0, 0))

    async def body(client: httpx.AsyncClient) -> None:
        service = app.state.service
        async with service.router.assign("toy", None) as chosen:
            loading = asyncio.create_task(service.repository.load("toy"))
            while service.models.get("toy") is chosen.model:
                await asyncio.sleep(0)
            for _ in range(100):
                assert (await client.post(INFER, json=ONE)).json()["outputs"][0]["data"] == [0, 0, 0]
            assert not loading.done()
            outputs = await chosen.infer({"x": np.ones((1, 2), np.float32)}, Wish(arrived=0.0))
            assert outputs["y"].tolist() == [[1, 0, 0]]
        await loading
        assert not chosen.model.ready

    asked(app, body)


@pytest.mark.parametrize("name", ["a\r\nset-cookie: b=c", "ünïcode", "a\x00b"])
def test_an_id_that_is_no_header_is_answered_in_the_body_alone(path: Path, name: str) -> None:
    app = served(path, Says(1, 0, 0))

    async def body(client: httpx.AsyncClient) -> None:
        reply = await client.post(INFER, json={**ONE, "id": name})
        assert (reply.status_code, reply.json()["id"]) == (200, name)
        assert not {"x-request-id", "set-cookie"} & set(reply.headers)
        judged = await client.post("/api/v1/feedback", json={"request_id": name, "label": 0})
        assert judged.json()["correct"] == [True]

    asked(app, body)


def test_whoever_stops_waiting_for_a_load_stops_nothing(path: Path) -> None:
    app = served(path, Says(1, 0, 0))

    async def body(client: httpx.AsyncClient) -> None:
        before = app.state.service.models.get("toy")
        loading = asyncio.create_task(app.state.service.repository.load("toy"))
        await asyncio.sleep(0)
        loading.cancel()
        while app.state.service.models.get("toy") is before or before.ready:
            await asyncio.sleep(0)
        assert (await client.post(INFER, json=ONE)).json()["outputs"][0]["data"] == [0, 0, 0]

    asked(app, body)


def test_a_version_that_is_not_there_is_told_at_once(path: Path) -> None:
    with pytest.raises(JobError, match="version of toy: must be one of 1, but got '2'"):
        served(path, Says(1, 0, 0), canary=["toy@2=5"])
