"""The real client of the Open Inference Protocol against the real server: what it gets is what the bundle computes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import write

pytest.importorskip("onnx")
client_of = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
utils = pytest.importorskip("tritonclient.utils")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensors")
    return write(bundles.tensor_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def url(path: Path) -> Iterator[str]:
    with serving.process(path, path, slo="20s") as (_, (url, *_)):
        yield url.removeprefix("http://")


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with client_of.InferenceServerClient(url) as client:
        yield client


def inputs(values: dict[str, np.ndarray], *, binary: bool = True) -> list[Any]:
    return serving.wrapped(client_of, values, binary_data=binary)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy-model")
    assert client.is_model_ready("toy-model", "2")
    assert not client.is_model_ready("toy-model", "3")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "schedule_policy", "model_repository"]
    assert client.get_model_metadata("toy-model", "1")["versions"] == ["1", "2"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_every_datatype_in_every_encoding(client: Any, path: Path, binary_in: bool, binary_out: bool | None) -> None:
    values = serving.tensors(5)
    names = ("same", "total", "count")
    outputs = None if binary_out is None else [client_of.InferRequestedOutput(n, binary_data=binary_out) for n in names]
    result = client.infer("toy-model", inputs(values, binary=binary_in), outputs=outputs, request_id="seven")
    with Bundle.open(path) as bundle:
        expected = bundle.predict(values)
    for name, array in expected.items():
        np.testing.assert_array_equal(result.as_numpy(name), array)
        assert result.as_numpy(name).dtype == array.dtype
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "toy-model", "2")


def test_json_and_bytes_may_be_mixed(client: Any, path: Path) -> None:
    values = serving.tensors(3)
    mixed = [*inputs(values, binary=False)[:2], *inputs(values)[2:]]
    outputs = [client_of.InferRequestedOutput("total", binary_data=True), client_of.InferRequestedOutput("count", binary_data=False)]
    result = client.infer("toy-model", mixed, outputs=outputs, model_version="1")
    with Bundle.open(path) as bundle:
        expected = bundle.predict(values)
    np.testing.assert_array_equal(result.as_numpy("total"), expected["total"])
    np.testing.assert_array_equal(result.as_numpy("count"), expected["count"])
    assert result.as_numpy("same") is None
    assert result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
def test_compressed_requests(client: Any, kind: str) -> None:
    values = serving.tensors(4)
    result = client.infer("toy-model", inputs(values), request_compression_algorithm=kind)
    np.testing.assert_array_equal(result.as_numpy("count"), 2 * values["ids"])


def test_priority_and_timeout(client: Any) -> None:
    assert client.infer("toy-model", inputs(serving.tensors(1)), priority=2, timeout=10_000_000).as_numpy("count") is not None
    with pytest.raises(utils.InferenceServerException, match=r"\[503\] request: c.*not be answered by its deadline"):
        client.infer("toy-model", inputs(serving.tensors(1)), timeout=1)


def test_what_is_wrong_is_said(client: Any) -> None:
    def refused(message: str, made: list[Any], **options: Any) -> None:
        with pytest.raises(utils.InferenceServerException, match=message):
            client.infer("toy-model", made, **options)

    values = serving.tensors(2)
    refused(r"\[404\] version of toy-model: must be one of 1, 2", inputs(values), model_version="9")
    refused(r"\[400\] input 'flags': is missing", inputs(values)[:3])
    refused(r"\[400\] input 'left': must have shape \(N, 3\)", inputs({**values, "left": values["left"][:, :2].copy()}))
    refused(r"\[400\] input 'left' datatype: must be FP32", inputs({**values, "left": values["ids"]}))
    refused(r"\[400\] parameter 'sequence_id': is not supported", inputs(values), sequence_id=3)
    refused(
        r"\[400\] parameter 'classification': is not supported",
        inputs(values),
        outputs=[client_of.InferRequestedOutput("total", class_count=2)],
    )
    refused(r"\[400\] output 'z': must be one of", inputs(values), outputs=[client_of.InferRequestedOutput("z")])


def test_many_at_once_each_get_their_own(url: str) -> None:
    aio = pytest.importorskip("tritonclient.http.aio")

    async def ask(client: Any, k: int) -> bool:
        values = serving.tensors(1 + k % 4)
        values["ids"] = values["ids"] + k
        result = await client.infer("toy-model", inputs(values))
        return bool(np.array_equal(result.as_numpy("count"), 2 * values["ids"]))

    async def all_of_them() -> list[bool]:
        async with aio.InferenceServerClient(url, conn_limit=16) as client:
            return await asyncio.gather(*(ask(client, k) for k in range(200)))

    assert all(asyncio.run(all_of_them()))
