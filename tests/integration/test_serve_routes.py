"""The server answers what the bundle computes, and refuses what it must."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import bundles
import numpy as np
import pytest
import serving
from starlette.applications import Starlette

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core import registry
from hasten.core.samples import Samples
from hasten.core.seams import Runtime, Target
from hasten.serve.app import create_app
from hasten.serve.service import Limits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # which of two http clients it would rather have
    from starlette.testclient import TestClient

pytest.importorskip("onnx")
MODEL = "/v2/models/toy-model"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return write(bundles.picture_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensors")
    return write(bundles.tensor_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def classifier(pictures: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Bundle.open(pictures)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def adder(tensors: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Bundle.open(tensors), limits=Limits(body_bytes=10_000)), raise_server_exceptions=False) as client:
        yield client


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


GOOD = [
    tensor("left", "FP32", [2, 3], [1, 2, 3, 4, 5, 6]),
    tensor("right", "FP32", [2, 3], [[0.5, 0, 0], [0, 0, 0.25]]),
    tensor("ids", "INT64", [2], [7, 8]),
    tensor("flags", "BOOL", [2, 2], [True, False, False, True]),
]


def test_same_picture_gives_bit_equal_outputs_everywhere(tmp_path: Path) -> None:
    made = bundles.picture_contents(tmp_path, metric="cosine", labels=None)  # no classes, so that outputs are answered
    out = write(made, tmp_path / "out")
    runtime = registry.get(Runtime, "onnxruntime")()
    program = runtime.load(out / "program", Target(threads=1))
    for picture in bundles.pictures(4, seed=9):
        prepared = bundles.PREPROCESS([picture])
        by_hand = program.run({"pixels": prepared})["scores"]
        with Bundle.open(out) as bundle:
            by_bundle = bundle.predict(picture)["scores"]
        with TestClient(create_app(Bundle.open(out))) as client:
            answer = client.post("/v1/predict", content=picture, headers={"content-type": "image/png"}).json()
            request = {"inputs": [tensor("pixels", "FP32", list(prepared.shape), prepared.ravel().tolist())]}
            inferred = client.post(f"{MODEL}/infer", json=request).json()["outputs"][0]
        np.testing.assert_array_equal(by_bundle, by_hand)
        np.testing.assert_array_equal(np.float32(answer["outputs"]["scores"]), by_hand)
        np.testing.assert_array_equal(np.float32(inferred["data"]).reshape(inferred["shape"]), by_hand)


def test_picture_of_a_classifier(classifier: TestClient, pictures: Path) -> None:
    picture = bundles.pictures(1, seed=4)[0]
    answer = classifier.post("/v1/predict?top=3", content=picture, headers={"content-type": "application/octet-stream"}).json()
    guesses = Bundle.open(pictures).classify(picture, top=3)[0]
    assert answer["top"] == [{"label": g.label, "index": g.index, "score": g.score} for g in guesses]
    assert (answer["label"], answer["score"]) == (guesses[0].label, guesses[0].score)


def test_nested_lists_of_several_samples(classifier: TestClient, pictures: Path) -> None:
    prepared = bundles.PREPROCESS(bundles.pictures(3))
    answer = classifier.post("/v1/predict", json={"inputs": {"pixels": prepared.tolist()}}).json()
    expected = Bundle.open(pictures).run({"pixels": prepared})["scores"]
    np.testing.assert_array_equal(np.float32(answer["outputs"]["scores"]), expected)
    assert [p["top"][0]["index"] for p in answer["predictions"]] == list(expected.argmax(axis=1))


def test_health_and_metadata(adder: TestClient) -> None:
    assert adder.get("/v2/health/live").json() == {"live": True}
    assert adder.get("/v2/health/ready").json() == {"ready": True}
    assert adder.get(f"{MODEL}/ready").json() == {"name": "toy-model", "ready": True}
    assert adder.get("/v2").json() == adder.get("/v2/").json()
    assert adder.get("/v2").json()["name"] == "hasten"
    metadata = adder.get(MODEL).json()
    assert metadata == adder.get(f"{MODEL}/versions/1").json()
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("toy-model", ["1"], "hasten_onnxruntime")
    assert metadata["inputs"] == [
        {"name": "left", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "right", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "ids", "datatype": "INT64", "shape": [-1]},
        {"name": "flags", "datatype": "BOOL", "shape": [-1, 2]},
    ]
    assert metadata["outputs"][0] == {"name": "total", "datatype": "FP32", "shape": [-1, 3]}


def test_infer_takes_flat_and_nested_and_answers_flat(adder: TestClient) -> None:
    answer = adder.post(f"{MODEL}/infer", json={"id": "42", "inputs": GOOD}).json()
    assert answer == {
        "model_name": "toy-model",
        "model_version": "1",
        "id": "42",
        "outputs": [
            tensor("total", "FP32", [2, 3], [1.5, 2, 3, 4, 5, 6.25]),
            tensor("count", "INT64", [2], [14, 16]),
            tensor("same", "BOOL", [2, 2], [True, False, False, True]),
        ],
    }


def test_infer_gives_the_outputs_that_are_asked_for(adder: TestClient) -> None:
    answer = adder.post(f"{MODEL}/versions/1/infer", json={"inputs": GOOD, "outputs": [{"name": "count"}]}).json()
    assert [output["name"] for output in answer["outputs"]] == ["count"]


@pytest.mark.parametrize("again", [{"model_name": "toy-model"}, {"model_name": "toy-model", "model_version": "1"}, {"model_version": None}])
def test_infer_may_name_its_model_again(adder: TestClient, again: dict[str, Any]) -> None:
    """As KServe's client does."""
    plain = adder.post(f"{MODEL}/infer", json={"inputs": GOOD})
    assert adder.post(f"{MODEL}/infer", json={"inputs": GOOD, **again}).content == plain.content


def changed(index: int, **changes: Any) -> dict[str, Any]:
    return {"inputs": [{**entry, **changes} if k == index else entry for k, entry in enumerate(GOOD)]}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"inputs": GOOD[:3]}, "input 'flags': is missing"),
        ({"inputs": [*GOOD, GOOD[0]]}, "input 'left': must be given once"),
        ({"inputs": GOOD, "output": []}, "request: must hold only id, inputs, model_name, model_version, outputs, parameters, but"),
        ({"inputs": GOOD, "model_name": "other"}, "model_name: must be toy-model, as the address says, but got 'other'"),
        ({"inputs": GOOD, "model_version": "2"}, "model_version: must be 1, as the address says, but got '2'"),
        ({"inputs": GOOD, "model_version": 1}, "model_version: must be 1, as the address says, but got 1"),
        ({"inputs": GOOD, "outputs": [{"name": "z"}]}, "output 'z': must be one of the model's outputs total, count, same"),
        ({"inputs": GOOD, "id": 3}, "id: must be text"),
        ({"inputs": {}}, "inputs: must be a list of objects, each with a name"),
        ({}, "inputs: must be a list of objects, each with a name"),
        (changed(0, name="z"), "input 'z': must be one of the model's inputs left, right, ids, flags"),
        (changed(0, datatype="FP64"), "input 'left' datatype: must be FP32, but got 'FP64'"),
        (changed(0, shape=[2, 4]), "input 'left' data: must have shape [2, 4], flat or nested, but got [6]"),
        (changed(0, shape=[3, 2]), "input 'left': must have shape (N, 3), but got (3, 2)"),
        (changed(0, shape=[6]), "input 'left': must have 2 axes (N, 3), but got 1 axes (6,)"),
        (changed(0, shape=[-2, -3]), "input 'left' shape: must be a list of whole numbers, 0 or more"),
        (changed(0, shape=[2, True]), "input 'left' shape: must be a list of whole numbers, 0 or more"),
        (changed(0, shape=[10**9, 10**9]), "input 'left' data: must have shape"),
        (changed(0, data=[1, 2, 3, 4, 5, "6"]), "input 'left' data: must hold FP32 values, but got 'str'"),
        (changed(0, data=[1, 2, 3, 4, 5, None]), "input 'left' data: must hold FP32 values, but got 'NoneType'"),
        (changed(0, data=[1, 2, 3, 4, 5, 1e39]), "input 'left' data: must be finite and fit into FP32"),
        (changed(0, data=[1, 2, 3, 4, 5, 10**400]), ""),  # whoever reads it may say why
        (changed(1, data=[[1, 2, 3], [4, 5]]), "input 'right' data: must be nested lists whose rows all have the same length"),
        (changed(1, data=[[[[1]]]]), "input 'right' data: must be nested at most 2 deep"),
        (changed(2, data=[1, 2.5]), "input 'ids' data: must hold INT64 values, but got 'float'"),
        (changed(2, data=[1, True]), "input 'ids' data: must hold INT64 values, but got 'bool'"),
        (changed(2, data=[1, 2**63]), "input 'ids' data: must lie within -9223372036854775808 and 9223372036854775807"),
        (changed(2, data=[1, 2, 3], shape=[3]), "inputs: must have the same number of samples"),
        (changed(3, data=[1, 0, 0, 1]), "input 'flags' data: must hold BOOL values, but got 'int'"),
        (
            {"inputs": [tensor(e["name"], e["datatype"], [0, *e["shape"][1:]], []) for e in GOOD]},
            "inputs: must hold at least one sample",
        ),
    ],
)
def test_wrong_tensors_are_refused_with_one_line(adder: TestClient, request_: dict[str, Any], message: str) -> None:
    refused(adder.post(f"{MODEL}/infer", json=request_), 400, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "body: must be JSON"),
        (b"[]", "body: must be a JSON object"),
        (b"", "the body must not be empty"),
        (b"\xff\xfe", "body: must be JSON"),
        (b"[" * 5000, "body: "),
        (b'{"inputs": [{"name": "left", "data": [NaN]}]}', "body: must be JSON"),
        (b'{"inputs": [{"name": "left", "data": [-Infinity]}]}', "body: must be JSON"),
    ],
)
def test_bodies_that_are_no_json_are_refused(adder: TestClient, body: bytes, message: str) -> None:
    headers = {"content-type": "application/json"}
    for path in (f"{MODEL}/infer", "/v1/predict"):
        refused(adder.post(path, content=body, headers=headers), 400, message)


def test_other_statuses(adder: TestClient, classifier: TestClient) -> None:
    refused(adder.get("/v2/elsewhere"), 404, "Not Found")
    refused(adder.get("/v2/models/other"), 404, "model: must be one of toy-model, but got 'other'")
    refused(adder.get(f"{MODEL}/versions/2"), 404, "version of toy-model: must be one of 1, but got '2'")
    refused(adder.get(f"{MODEL}/infer"), 405, "Method Not Allowed")
    refused(adder.post("/v1/predict", content=b"x", headers={"content-type": "image/png"}), 415, "this model takes tensors")
    refused(adder.post("/v1/predict", content=b"x", headers={"content-type": "text/plain"}), 415, "send one picture as image/*")
    refused(classifier.post("/v1/predict", content=b"x"), 415, "send one picture as image/*")
    refused(classifier.post("/v1/predict", content=b"no picture", headers={"content-type": "image/png"}), 400, "picture: is no picture")
    for top in ("0", "-1", "x", "²", ""):
        refused(classifier.post(f"/v1/predict?top={top}", content=b"x", headers={"content-type": "image/png"}), 400, "top must be")
    refused(adder.post("/v1/predict", json={"inputs": [1]}), 400, 'body: must be {"inputs": {name: nested lists}}')
    refused(adder.post("/v1/predict", json={"inputs": {"z": [1]}}), 400, "input 'z': must be one of the model's inputs")
    refused(adder.post("/v1/predict", json={"inputs": {"ids": [1.5]}}), 400, "input 'ids' data: must hold INT64 values")


def test_body_past_the_limit_is_refused_before_it_is_read(tensors: Path) -> None:
    def chunks() -> Iterator[bytes]:  # no content-length
        for _ in range(1000):
            yield b" " * 1000

    app = create_app(Bundle.open(tensors), limits=Limits(body_bytes=10_000))
    with TestClient(app) as client:
        refused(client.post(f"{MODEL}/infer", content=b" " * 10_001), 413, "the body must have at most 10000 bytes")
        refused(client.post(f"{MODEL}/infer", content=chunks()), 413, "the body must have at most 10000 bytes")
    received = anyio.run(_count_received, app)
    assert received <= 11


async def _count_received(app: Starlette) -> int:
    """How many pieces of 1,000 bytes the server takes of a body without end."""
    count = 0

    async def receive() -> dict[str, Any]:
        nonlocal count
        count += 1
        assert count < 1000
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 413

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    return count


def test_failure_inside_is_one_line_without_traceback(pictures: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(pictures)
    with TestClient(create_app(bundle), raise_server_exceptions=False) as client:
        bundle.__dict__["_program"] = None  # as if the runtime had lost its session
        answer = client.post("/v1/predict", content=bundles.pictures(1)[0], headers={"content-type": "image/png"})
    refused(answer, 500, "internal error (AttributeError)")


def test_nan_of_the_model_is_an_error_of_the_server(tensors: Path) -> None:
    with TestClient(create_app(Bundle.open(tensors)), raise_server_exceptions=False) as client:
        huge = [tensor(e["name"], e["datatype"], e["shape"], [3e38] * 6 if e["datatype"] == "FP32" else e["data"]) for e in GOOD]
        refused(client.post(f"{MODEL}/infer", json={"inputs": huge}), 500, "output 'total': holds NaN or infinity, which JSON cannot carry")


def test_concurrent_requests_each_get_their_own_answer(adder: TestClient) -> None:
    def ask(k: int) -> Any:
        body = {"inputs": {"left": [[k, k, k]], "right": [[1, 1, 1]], "ids": [k], "flags": [[True, False]]}}
        return adder.post("/v1/predict", json=body).json()["outputs"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(40)))
    assert [a["total"] for a in answers] == [[[k + 1.0] * 3] for k in range(40)]
    assert [a["count"] for a in answers] == [[2 * k] for k in range(40)]


def test_health_answers_while_a_prediction_runs_and_predictions_take_turns(pictures: Path) -> None:
    bundle, held = Bundle.open(pictures), serving.Held("scores", bundles.CLASSES)
    bundle.__dict__["_program"] = held
    picture = bundles.pictures(1)[0]

    def ask(_: int) -> int:
        return int(client.post("/v1/predict", content=picture, headers={"content-type": "image/png"}).status_code)

    with TestClient(create_app(bundle)) as client, ThreadPoolExecutor(4) as pool:
        held.hold()
        answers = pool.map(ask, range(4))
        assert held.entered.wait(30)
        assert client.get("/v2/health/live").json() == {"live": True}
        held.released.set()
        assert list(answers) == [200] * 4
    assert held.most == 1


def test_page_shows_what_is_served_and_escapes_it(classifier: TestClient, adder: TestClient, tmp_path: Path) -> None:
    assert "toy-model" in classifier.get("/").text
    assert '<input type="file"' in classifier.get("/").text
    assert '<input type="file"' not in adder.get("/").text
    signature = bundles.save_classifier(tmp_path / "model.onnx")
    answer = {**bundles.ANSWER, "reason": "<script>alert(1)</script>"}
    made = bundles.contents(tmp_path, signature, Samples(inputs={"": bundles.pictures(2)}), preprocess=bundles.PREPROCESS, answer=answer)
    with TestClient(create_app(Bundle.open(write(made, tmp_path / "out")))) as client:
        assert "<script>alert" not in client.get("/").text
        assert "&lt;script&gt;alert" in client.get("/").text


def refused(response: Any, status: int, message: str) -> None:
    assert response.status_code == status, (response.status_code, response.text)
    content = json.loads(response.text)
    assert list(content) == ["error"]
    assert content["error"].startswith(message), content["error"]
    assert "\n" not in content["error"]
    assert "Traceback" not in content["error"]
