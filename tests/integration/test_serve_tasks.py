"""Classifying over REST in all its forms, problem details, the OpenAPI document, and the metrics."""

from __future__ import annotations

import base64
import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundles
import pytest

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.serve import app as app_module
from hasten.serve.app import create_app
from hasten.serve.service import Limits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")
PATH = "/api/v1/classify"
PICTURE = bundles.pictures(1, seed=4)[0]
JSON = {"image_base64": base64.b64encode(PICTURE).decode()}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return write(bundles.picture_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def client(path: Path) -> Iterator[TestClient]:
    app = create_app(Bundle.open(path), limits=Limits(body_bytes=200_000), objective=60.0)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def expected(path: Path, top: int) -> list[dict[str, Any]]:
    with Bundle.open(path) as bundle:
        return [{"label": g.label, "index": g.index, "score": g.score} for g in bundle.classify(PICTURE, top=top)[0]]


def test_every_form_of_the_request_gets_the_same_answer(client: TestClient, path: Path) -> None:
    answers = [
        client.post(PATH, json={**JSON, "top_k": 3}),
        client.post(f"{PATH}?top_k=3", content=PICTURE, headers={"content-type": "image/png"}),
        client.post(f"{PATH}?top_k=3&timeout_seconds=60", content=PICTURE, headers={"content-type": "application/octet-stream"}),
        client.post(PATH, files={"image": ("a.png", PICTURE, "image/png")}, data={"top_k": "3"}),
        client.post(PATH, json={**JSON, "top_k": 3, "model": "toy-model", "priority": "bulk", "timeout_seconds": 60.5}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"model": "toy-model", "version": "1", "predictions": expected(path, 3)}


def test_a_small_jpeg_needs_no_thread_and_is_answered_as_every_other(path: Path) -> None:
    """All threads that decode are taken as long as this lasts."""
    app = create_app(Bundle.open(path), objective=60.0)
    Image.open(io.BytesIO(PICTURE)).convert("RGB").save(file := io.BytesIO(), "JPEG")
    with TestClient(app) as client, Bundle.open(path) as bundle, contextlib.ExitStack() as taken:
        pool = app.state.service.pool
        assert client.portal is not None
        for k in range(int(pool.total_tokens)):
            client.portal.call(pool.acquire_on_behalf_of, k)
            taken.callback(client.portal.call, pool.release_on_behalf_of, k)
        answer = client.post(f"{PATH}?top_k=2", content=file.getvalue(), headers={"content-type": "image/jpeg"})
        assert answer.json()["predictions"] == [vars(guess) for guess in bundle.classify(file.getvalue(), top=2)[0]]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 400, "image_base64: must be a picture as base64 text, but got 'NoneType'."),
        ({"image_base64": 3}, 400, "image_base64: must be a picture as base64 text, but got 'int'."),
        ({"image_base64": "no base64!"}, 400, "image_base64: must be base64 ("),
        ({"image_base64": "é"}, 400, "image_base64: must be base64 ("),
        ({"image_base64": "QUJD"}, 400, "picture: is no picture, or of an unknown format."),
        ({"image_base64": ""}, 400, "picture: is no picture, or of an unknown format."),
        ({**JSON, "top_k": 0}, 400, "top_k: must be a whole number from 1 to 1000, but got 0."),
        ({**JSON, "top_k": True}, 400, "top_k: must be a whole number"),
        ({**JSON, "top_k": "3"}, 400, "top_k: must be a whole number"),
        ({**JSON, "topk": 3}, 400, "request: must hold only image_base64, model, priority, timeout_seconds, top_k, but got 'topk'."),
        ({**JSON, "timeout_seconds": 0}, 400, "timeout_seconds: must be a number above 0, but got 0."),
        ({**JSON, "timeout_seconds": 1e-9}, 503, "request: cannot be decoded by its deadline."),
        ({**JSON, "priority": "urgent"}, 400, "priority: must be interactive or bulk, but got 'urgent'."),
        ({**JSON, "model": ["a"]}, 400, "model: must be text"),
        ({**JSON, "model": "other"}, 404, "model: must be one of toy-model, but got 'other'."),
        ({"image_base64": "A" * 300_000}, 413, "the body must have at most 200000 bytes"),
    ],
)
def test_what_is_wrong_is_a_problem(client: TestClient, body: dict[str, Any], status: int, detail: str) -> None:
    problem(client.post(PATH, json=body), status, detail)


def test_other_problems(client: TestClient, tmp_path: Path) -> None:
    problem(client.get(PATH), 405, "Method Not Allowed")
    problem(client.post("/api/v1/elsewhere"), 404, "Not Found")
    problem(client.post(PATH, content=b"x", headers={"content-type": "text/plain"}), 415, "send application/json with image_base64")
    problem(client.post(f"{PATH}?top_k=x", content=PICTURE, headers={"content-type": "image/png"}), 400, "top_k: must be a whole number")
    problem(client.post(PATH, files={"picture": ("a.png", PICTURE)}), 400, "image: must be a file of the form")
    problem(client.post(PATH, data={"image": "text"}, files={"other": ("a", b"b")}), 400, "image: must be a file of the form")
    two = [("image", ("a.png", PICTURE)), ("image", ("b.png", PICTURE))]
    problem(client.post(PATH, files=two), 400, "form: ")
    form = {"content-type": "multipart/form-data"}
    problem(client.post(PATH, content=b"no form", headers=form), 400, "form: ")
    problem(client.post(PATH, content=b"no form", headers={"content-type": "multipart/form-data; boundary=x"}), 400, "")
    tensors = write(bundles.tensor_contents(tmp_path), tmp_path / "out")
    with TestClient(create_app(Bundle.open(tensors))) as other:
        problem(other.post(PATH, json=JSON), 422, "toy-model does not classify pictures")


def test_refusals_say_when_to_come_again(client: TestClient) -> None:
    assert int(client.post(PATH, json={**JSON, "timeout_seconds": 1e-9}).headers["retry-after"]) >= 1


def problem(answer: Any, status: int, detail: str) -> None:
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert (set(content), content["status"], content["type"]) == ({"type", "title", "status", "detail"}, status, "about:blank")
    assert content["detail"].startswith(detail), content["detail"]
    assert "\n" not in content["detail"]


def test_openapi_says_what_is_answered(client: TestClient) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = client.get("/api/v1/openapi.json").json()
    operation = document["paths"][PATH]["post"]

    def check(value: Any, schema: dict[str, Any]) -> None:
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)

    check({**JSON, "top_k": 3, "model": "toy-model"}, operation["requestBody"]["content"]["application/json"]["schema"])
    check(client.post(PATH, json=JSON).json(), operation["responses"]["200"]["content"]["application/json"]["schema"])
    for body in ({}, {**JSON, "top_k": 0}, {**JSON, "more": 1}, {**JSON, "model": "other"}, {**JSON, "timeout_seconds": 0}):
        with pytest.raises(jsonschema.ValidationError):
            check(body, operation["requestBody"]["content"]["application/json"]["schema"])
        answer = client.post(PATH, json=body)
        check(answer.json(), operation["responses"][str(answer.status_code)]["content"]["application/problem+json"]["schema"])


def test_metrics_count_what_happened(path: Path) -> None:
    pytest.importorskip("prometheus_client")
    parser = pytest.importorskip("prometheus_client.parser")
    with TestClient(create_app(Bundle.open(path), objective=60.0), raise_server_exceptions=False) as client:
        for _ in range(3):
            client.post(PATH, json=JSON)
        client.post(PATH, json={**JSON, "timeout_seconds": 1e-9})
        answer = client.get("/metrics")
    samples = {
        (sample.name, *(v for k, v in sample.labels.items() if k in ("outcome", "stage"))): sample.value
        for family in parser.text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.labels.get("le", "+Inf") == "+Inf"
    }
    assert samples["hasten_requests_total", "answered"] == 3
    assert samples["hasten_requests_total", "refused"] == 1
    assert samples["hasten_requests_total", "queue_full"] == 0
    assert samples["hasten_queue_seconds_count",] == 3
    assert samples["hasten_batch_size_sum",] == 3
    assert samples["hasten_call_seconds_count",] == 3
    assert samples["hasten_stage_seconds_count", "decode"] == 3  # who comes too late is not decoded
    assert samples["hasten_stage_seconds_count", "encode"] == 3
    assert samples["hasten_queue_length",] == 0
    assert samples["hasten_slo_seconds",] == 60
    assert samples["hasten_slo_misses_total",] == 0


def test_without_the_extra_the_metrics_say_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hasten.core import need

    def has(package: str) -> bool:
        return package != "prometheus_client"

    monkeypatch.setattr(app_module, "has", has)
    monkeypatch.setattr(need, "has", has)
    with TestClient(create_app(Bundle.open(path))) as client:
        assert client.post(PATH, json=JSON).status_code == 200
        answer = client.get("/metrics")
    assert answer.status_code == 501
    assert 'pip install "hasten[serve]"' in answer.json()["error"]
