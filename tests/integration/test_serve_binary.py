"""The binary tensor extension, byte by byte: what must be taken, and what must be refused with one line."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterator
from typing import Any

import bundles
import numpy as np
import pytest

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.serve.app import create_app
from hasten.serve.service import Limits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

INFER = "/v2/models/toy-model/infer"
HEADER = "Inference-Header-Content-Length"
X = np.array([[1.5, -2.0], [3.0, 4.25]], "<f4")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("null")
    bundle = Bundle.open(write(bundles.null_contents(folder), folder / "out"))
    with TestClient(create_app(bundle, limits=Limits(body_bytes=100_000)), raise_server_exceptions=False) as client:
        yield client


def entry(size: Any = X.nbytes, shape: Any = (2, 2), **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": list(shape), "parameters": {"binary_data_size": size}, **more}


def ask(client: TestClient, head: dict[str, Any], raw: bytes = X.tobytes(), length: Any = None) -> Any:
    text = json.dumps(head).encode()
    return client.post(INFER, content=text + raw, headers={HEADER: str(len(text) if length is None else length)})


def test_answer_is_json_and_then_the_bytes_that_it_announces(client: TestClient) -> None:
    answer = ask(client, {"id": "a", "inputs": [entry()], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]})
    length = int(answer.headers[HEADER])
    head = json.loads(answer.content[:length])
    assert head == {
        "model_name": "toy-model",
        "model_version": "1",
        "id": "a",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}],
    }
    assert answer.headers["content-type"] == "application/octet-stream"
    np.testing.assert_array_equal(np.frombuffer(answer.content[length:], "<f4").reshape(2, 3), np.zeros((2, 3)))


def test_json_is_answered_where_no_bytes_were_asked_for(client: TestClient) -> None:
    answer = ask(client, {"inputs": [entry()]})
    assert HEADER not in answer.headers
    assert answer.json()["outputs"][0]["data"] == [0.0] * 6


def test_a_bare_tensor_is_as_many_samples_as_it_has_bytes_for(client: TestClient) -> None:
    answer = client.post(INFER, content=X.tobytes(), headers={HEADER: "0"})
    head = json.loads(answer.content[: int(answer.headers[HEADER])])
    assert head["outputs"][0]["shape"] == [2, 3]


@pytest.mark.parametrize(
    ("head", "raw", "length", "message"),
    [
        ({"inputs": [entry(size=15)]}, X.tobytes(), None, "input 'x' data: must have 16 bytes for shape [2, 2], but got 15"),
        ({"inputs": [entry()]}, X.tobytes() + b"x", None, "body: must end with the last tensor, 1 bytes earlier"),
        ({"inputs": [entry()]}, X.tobytes()[:-1], None, "input 'x' binary_data_size: must be a whole number from 0 to the 15 bytes"),
        ({"inputs": [entry(size=-1)]}, X.tobytes(), None, "input 'x' binary_data_size: must be a whole number"),
        ({"inputs": [entry(size=True)]}, X.tobytes(), None, "input 'x' binary_data_size: must be a whole number"),
        ({"inputs": [entry(data=[1, 2, 3, 4])]}, X.tobytes(), None, "input 'x' data: must be given, either as JSON or with"),
        ({"inputs": [entry(shape=(2**40, 2**40))]}, X.tobytes(), None, "input 'x' data: must have"),
        ({"inputs": [entry(shape=(-2, -2))]}, X.tobytes(), None, "input 'x' shape: must be a list of whole numbers"),
        ({"inputs": [entry(shape=(4, 1))]}, X.tobytes(), None, "input 'x': must have shape (N, 2)"),
        ({"inputs": [entry(parameters=[])]}, X.tobytes(), None, "input 'x' parameters: must be an object"),
        ({"inputs": [entry(parameters={})]}, X.tobytes(), None, "input 'x' data: must be given"),
        ({"inputs": [entry()], "parameters": {"binary_data_output": 1}}, X.tobytes(), None, "request binary_data_output: must be true"),
        ({"inputs": [entry()], "parameters": {"timeout": -1}}, X.tobytes(), None, "parameter 'timeout': must be a whole number"),
        ({"inputs": [entry()], "parameters": {"shared_memory_region": "r"}}, X.tobytes(), None, "parameter 'shared_memory_region': is not"),
        ({"inputs": [entry()]}, np.float32([1, 2, 3, np.nan]).tobytes(), None, "input 'x' data: must be finite"),
        ({}, X.tobytes(), 10**6, "Inference-Header-Content-Length: must be at most the body's 18 bytes"),
        ({}, X.tobytes(), "-3", "Inference-Header-Content-Length: must be a whole number"),
        ({}, X.tobytes(), "1e3", "Inference-Header-Content-Length: must be a whole number"),
        ({}, X.tobytes(), 1, "body: must be JSON"),
        ({}, b"123", 0, "input 'x' data: must have a multiple of 8 bytes, but got 5"),
    ],
)
def test_wrong_bytes_are_refused_with_one_line(client: TestClient, head: Any, raw: bytes, length: Any, message: str) -> None:
    answer = ask(client, head, raw, length)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].startswith(message), answer.json()["error"]


def test_compression_is_bounded_by_what_comes_out(client: TestClient) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    assert len(bomb) < 20_000
    for body, encoding, status in ((bomb, "gzip", 413), (b"no gzip", "gzip", 400), (bomb[:100], "gzip", 400), (b"{}", "br", 415)):
        answer = client.post(INFER, content=body, headers={"content-encoding": encoding})
        assert answer.status_code == status, answer.text


def test_random_bytes_never_break_the_server(client: TestClient) -> None:
    rng = np.random.default_rng(5)
    good = json.dumps({"inputs": [entry()]}).encode() + X.tobytes()
    for _ in range(300):
        body = bytearray(good)
        for at in rng.integers(0, len(body), size=rng.integers(1, 8)):
            body[at] = rng.integers(0, 256)
        answer = client.post(INFER, content=bytes(body), headers={HEADER: str(rng.integers(0, len(body) + 3))})
        assert answer.status_code in (200, 400), (answer.status_code, answer.text, bytes(body))
