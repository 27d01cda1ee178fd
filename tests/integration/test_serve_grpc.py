"""Open Inference Protocol over gRPC: the real client against the real server."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
import serving

from hasten.bundle.read import Bundle
from hasten.bundle.write import write
from hasten.core.errors import NotPossibleHere
from hasten.serve import messages
from hasten.serve.options import ServeOptions
from hasten.serve.run import serve

pytest.importorskip("onnx")
grpc = pytest.importorskip("grpc", reason="pip install 'hasten[serve]'")
client_of = pytest.importorskip("tritonclient.grpc", reason="pip install 'tritonclient[grpc]'")
utils = pytest.importorskip("tritonclient.utils")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensors")
    return write(bundles.tensor_contents(folder), folder / "out")


@pytest.fixture(scope="module")
def url(path: Path) -> Iterator[str]:
    with serving.process(path, path, slo="20s", grpc=True) as (_, (_, url)):
        yield url.removeprefix("grpc://")


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with client_of.InferenceServerClient(url) as client:
        yield client


def inputs(values: dict[str, np.ndarray]) -> list[Any]:
    return serving.wrapped(client_of, values)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy-model")
    assert client.is_model_ready("toy-model", "2")
    assert not client.is_model_ready("toy-model", "3")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "hasten"
    metadata = client.get_model_metadata("toy-model", as_json=True)
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"][0] == {"name": "left", "datatype": "FP32", "shape": ["-1", "3"]}


@pytest.mark.parametrize("names", [None, ["count", "total"]])
def test_outputs_are_what_the_bundle_computes(client: Any, path: Path, names: list[str] | None) -> None:
    values = serving.tensors(5)
    outputs = None if names is None else [client_of.InferRequestedOutput(name) for name in names]
    result = client.infer("toy-model", inputs(values), outputs=outputs, request_id="seven", model_version="1")
    with Bundle.open(path) as bundle:
        expected = bundle.predict(values)
    for name in names or expected:
        np.testing.assert_array_equal(result.as_numpy(name), expected[name])
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("seven", "toy-model", "1")
    assert [output.name for output in answer.outputs] == (names or list(expected))


def test_numbers_may_come_in_fields_instead_of_bytes(url: str, path: Path) -> None:
    values = serving.tensors(2)
    fields = {"left": "fp32_contents", "right": "fp32_contents", "ids": "int64_contents", "flags": "bool_contents"}
    request = messages.message("ModelInferRequest")(model_name="toy-model")
    for name, array in values.items():
        entry = request.inputs.add(name=name, datatype=serving.DATATYPES[str(array.dtype)], shape=array.shape)
        getattr(entry.contents, fields[name]).extend(array.ravel().tolist())
    answer = call(url, request)
    with Bundle.open(path) as bundle:
        np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], "<f4"), bundle.predict(values)["total"].ravel())
    request.raw_input_contents.append(b"")
    with pytest.raises(grpc.RpcError) as caught:
        call(url, request)
    assert caught.value.details() == "raw_input_contents: must hold all 4 inputs or none, but got 1."


def call(url: str, request: Any) -> Any:
    taken, given = messages.methods()["ModelInfer"]
    with grpc.insecure_channel(url) as channel:
        method = channel.unary_unary(
            f"/{messages.SERVICE}/ModelInfer", request_serializer=taken.SerializeToString, response_deserializer=given.FromString
        )
        return method(request, timeout=60)


def test_what_is_wrong_is_said_with_its_status(client: Any) -> None:
    def refused(status: str, message: str, made: list[Any], **options: Any) -> None:
        with pytest.raises(utils.InferenceServerException, match=message) as caught:
            client.infer("toy-model", made, **options)
        assert caught.value.status() == f"StatusCode.{status}"

    values = serving.tensors(2)
    refused("NOT_FOUND", "version of toy-model: must be one of 1, 2", inputs(values), model_version="9")
    refused("INVALID_ARGUMENT", "input 'flags': is missing", inputs(values)[:3])
    refused("INVALID_ARGUMENT", r"input 'left': must have shape \(N, 3\)", inputs({**values, "left": values["left"][:, :2].copy()}))
    refused("INVALID_ARGUMENT", "input 'left' datatype: must be FP32", inputs({**values, "left": values["ids"]}))
    refused("INVALID_ARGUMENT", "parameter 'sequence_id': is not supported", inputs(values), sequence_id=3)
    refused("INVALID_ARGUMENT", "output 'z': must be one of", inputs(values), outputs=[client_of.InferRequestedOutput("z")])
    refused("UNAVAILABLE", "not be answered by its deadline", inputs(values), timeout=1)


def test_a_stream_answers_in_order_and_goes_on_after_an_error(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for k in range(200):
        values = serving.tensors(1 + k % 3)
        client.async_stream_infer("toy-model", inputs(values)[: 3 if k == 50 else 4], request_id=str(k))
    for k in range(200):
        result, error = answers.get(timeout=60)
        if k == 50:
            assert "input 'flags': is missing" in str(error)
        else:
            assert error is None
            assert result.get_response().id == str(k)
            np.testing.assert_array_equal(result.as_numpy("count"), 2 * serving.tensors(1 + k % 3)["ids"])
    client.stop_stream()


def test_a_stream_that_is_broken_off_harms_nobody(url: str) -> None:
    for _ in range(5):
        broken = client_of.InferenceServerClient(url)
        broken.start_stream(callback=lambda result, error: None)
        for _ in range(20):
            broken.async_stream_infer("toy-model", inputs(serving.tensors(2)))
        broken.stop_stream(cancel_requests=True)
        broken.close()
    with client_of.InferenceServerClient(url) as client:
        np.testing.assert_array_equal(
            client.infer("toy-model", inputs(serving.tensors(3))).as_numpy("count"), 2 * serving.tensors(3)["ids"]
        )


def test_a_message_past_the_limit_is_refused(client: Any) -> None:
    with pytest.raises(utils.InferenceServerException) as caught:
        client.infer("toy-model", inputs(serving.tensors(1_000_000)))
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_port_in_use_is_one_line(path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NotPossibleHere, match=f"--grpc-port: {port} cannot be listened on at 127.0.0.1"):
            serve(path, options=ServeOptions(port=0, grpc_port=port))


def test_the_compiled_description_is_that_of_the_proto_file() -> None:
    """Names and numbers of every field in the text are those of the compiled file, so that neither can be changed alone."""
    from importlib import resources

    text = resources.files("hasten.serve").joinpath("oip.proto").read_text()
    lines = {line.split(";")[0].strip() for line in text.splitlines() if "=" in line and ";" in line}
    fields = {line.split()[-3] + "=" + line.split()[-1] for line in lines if not line.startswith("syntax")}
    compiled = set()

    def collect(descriptor: Any) -> None:
        for field in descriptor.fields:
            compiled.add(f"{field.name}={field.number}")
        for nested in descriptor.nested_types:
            if not nested.GetOptions().map_entry:
                collect(nested)

    pool = messages._pool()
    for descriptor in pool.FindFileByName("oip.proto").message_types_by_name.values():
        collect(descriptor)
    assert fields == compiled


def test_a_failure_inside_is_told_without_its_insides(path: Path, tmp_path: Path) -> None:
    """Over a call and over a stream, by a server in this process whose program breaks after its warm-up."""
    import asyncio

    from hasten.serve.app import create_app
    from hasten.serve.grpc_server import running

    async def body() -> None:
        bundle = Bundle.open(path)
        service = create_app(bundle).state.service
        service.models.load()
        bundle.__dict__["_program"] = None
        request = messages.message("ModelInferRequest")(model_name="toy-model", id="a")
        for name, array in serving.tensors(1).items():
            request.inputs.add(name=name, datatype=serving.DATATYPES[str(array.dtype)], shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        async with running(service, "127.0.0.1", 0, grace=5) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            taken, given = messages.methods()["ModelStreamInfer"]
            kinds = {"request_serializer": taken.SerializeToString, "response_deserializer": given.FromString}
            (answer,) = [a async for a in channel.stream_stream(f"/{messages.SERVICE}/ModelStreamInfer", **kinds)(iter([request]))]
            assert (answer.error_message, answer.infer_response.id) == ("internal error (AttributeError)", "a")
            with pytest.raises(grpc.RpcError) as caught:
                await channel.unary_unary(f"/{messages.SERVICE}/ModelInfer", request_serializer=taken.SerializeToString)(request)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert caught.value.details() == "internal error (AttributeError)"
        await service.models.close()

    asyncio.run(asyncio.wait_for(body(), 60))


@pytest.mark.parametrize("data", [b"\xff", b"\n\x7fshort", b"\x0a\x02\xff\xff", bytes(100)])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "RepositoryModelLoad"])
def test_a_message_that_is_none_is_the_senders_fault(url: str, method: str, data: bytes) -> None:
    with grpc.insecure_channel(url) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{messages.SERVICE}/{method}")(data, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(f"request: must be a {method}Request as protobuf writes it.")


def test_a_stream_goes_on_after_a_message_that_is_none(url: str) -> None:
    good = messages.message("ModelInferRequest")(model_name="other", id="7").SerializeToString()
    with grpc.insecure_channel(url) as channel:
        answers = list(channel.stream_stream(f"/{messages.SERVICE}/ModelStreamInfer")(iter([good, b"\xff", good]), timeout=60))
    told = [messages.message("ModelStreamInferResponse").FromString(answer) for answer in answers]
    assert [one.error_message.partition(":")[0] for one in told] == ["model", "request", "model"]
    assert [told[0].infer_response.id, told[2].infer_response.id] == ["7", "7"]


@pytest.mark.parametrize("letter", ["a", "é", "\U0001f600"])
def test_an_error_fits_into_a_header_whatever_it_is_about(url: str, letter: str) -> None:
    """Names come from requests, and a client refuses an answer whose headers are over 8 kB."""
    wrong = messages.message("ModelInferRequest")(model_name="toy-model")
    wrong.inputs.add(name=letter * 100_000)
    with grpc.insecure_channel(url) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")(wrong.SerializeToString(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "must be one of the model's inputs left, right, ids, flags" in caught.value.details()
