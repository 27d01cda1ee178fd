"""The same requests to hasten and to a real Triton with the same network: the same answers, but for what Triton calls its own fault.

Triton is the one of `nvidia-pytriton`, in the environment that benchmarks/serve_peers.py describes; without it this is skipped.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "out/serve-peers/triton/bin/python").exists(), reason="no Triton in out/serve-peers/triton"),
]
X = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
HEADER = "Inference-Header-Content-Length"
INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """hasten and Triton."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import serve_models
    import serve_peers
    import serve_rig

    bundle = serve_models.net("tiny", tmp_path_factory.mktemp("net") / "tiny")
    with serve_rig.hasten(bundle) as ours, serve_peers.running("triton", bundle.with_suffix(".onnx")) as triton:
        yield f"http://{ours.address}", f"http://{triton.address}"


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "pixels", "datatype": "FP32", "shape": list(X.shape), **changes}


def as_json(content: Any) -> dict[str, Any]:
    return {"content": json.dumps(content).encode()}


def binary(content: Any, raw: bytes, *, length: str | None = None, **headers: str) -> dict[str, Any]:
    head = json.dumps(content).encode()
    return {"content": head + raw, "headers": {HEADER: length or str(len(head)), **headers}}


def sized(**changes: Any) -> dict[str, Any]:
    return entry(parameters={"binary_data_size": X.nbytes}, **changes)


FLAT, NESTED, RAW = X.ravel().tolist(), X.tolist(), X.tobytes()
ASK_BINARY = {"outputs": [{"name": "scores", "parameters": {"binary_data": True}}]}
GOOD = {
    "flat json": as_json({"inputs": [entry(data=FLAT)]}),
    "nested json": as_json({"inputs": [entry(data=NESTED)]}),
    "with an id": as_json({"id": "seven", "inputs": [entry(data=FLAT)]}),
    "chosen output": as_json({"inputs": [entry(data=FLAT)], "outputs": [{"name": "scores"}]}),
    "binary in": binary({"inputs": [sized()]}, RAW),
    "binary out": as_json({"inputs": [entry(data=FLAT)], **ASK_BINARY}),
    "binary both": binary({"inputs": [sized()], **ASK_BINARY}, RAW),
    "binary by default": binary({"inputs": [sized()], "parameters": {"binary_data_output": True}}, RAW),
    "with options": binary({"inputs": [sized()], "parameters": {"priority": 1, "timeout": 9_000_000}}, RAW),
    "compressed": {"content": gzip.compress(json.dumps({"inputs": [entry(data=FLAT)]}).encode()), "headers": {"Content-Encoding": "gzip"}},
}
BAD = {
    "no json": {"content": b"{"},
    "empty": {"content": b""},
    "no inputs": as_json({"id": "a"}),
    "unknown input": as_json({"inputs": [entry(name="other", data=FLAT)]}),
    "no such output": as_json({"inputs": [entry(data=FLAT)], "outputs": [{"name": "other"}]}),
    "no data": as_json({"inputs": [entry()]}),
    "no shape": as_json({"inputs": [{"name": "pixels", "datatype": "FP32", "data": FLAT}]}),
    "other datatype": as_json({"inputs": [entry(datatype="INT64", data=[1] * X.size)]}),
    "no such datatype": as_json({"inputs": [entry(datatype="FP31", data=FLAT)]}),
    "too few": as_json({"inputs": [entry(data=FLAT[:-1])]}),
    "other shape": as_json({"inputs": [entry(shape=[2, 64, 64, 3], data=FLAT)]}),
    "fewer axes": as_json({"inputs": [entry(shape=[2, 12288], data=FLAT)]}),
    "negative shape": as_json({"inputs": [entry(shape=[-2, 3, 64, 64], data=FLAT)]}),
    "text": as_json({"inputs": [entry(data=["a"] * X.size)]}),
    "short bytes": binary({"inputs": [sized()]}, RAW[:-1]),
    "length beyond the body": binary({"inputs": [sized()]}, RAW, length="9999999"),
    "length of no number": binary({"inputs": [sized()]}, RAW, length="x"),
    "size that is not the shape's": binary({"inputs": [entry(parameters={"binary_data_size": X.nbytes - 4})]}, RAW[:-4]),
}


def tensors(answer: httpx.Response) -> dict[str, Any]:
    """What an answer says, with the outputs as arrays."""
    length = int(answer.headers.get(HEADER, len(answer.content)))
    head, rest = json.loads(answer.content[:length]), answer.content[length:]
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        array = np.array(output.pop("data"), np.float32) if size is None else np.frombuffer(rest[:size], "<f4")
        output["array"] = array.reshape(output["shape"])
    return dict(head)


@pytest.mark.parametrize("name", GOOD)
def test_what_both_answer_is_equal(urls: tuple[str, str], name: str) -> None:
    ours, theirs = (tensors(httpx.post(url + INFER, timeout=30, **GOOD[name])) for url in urls)
    arrays = [said["outputs"][0].pop("array") for said in (ours, theirs)]
    np.testing.assert_allclose(arrays[0], arrays[1], rtol=1e-5, atol=1e-6)
    assert ours == theirs


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_by_both_and_the_fault_is_the_sender_s(urls: tuple[str, str], name: str) -> None:
    ours, theirs = (httpx.post(url + INFER, timeout=30, **BAD[name]) for url in urls)
    assert (ours.status_code, theirs.status_code >= 400) == (400, True), (ours.text, theirs.status_code, theirs.text)
    assert list(ours.json()) == ["error"]


@pytest.mark.parametrize("path", ["/v2", "/v2/models/tiny", "/v2/models/tiny/versions/1"])
def test_descriptions_have_the_same_fields(urls: tuple[str, str], path: str) -> None:
    ours, theirs = (httpx.get(url + path).json() for url in urls)
    assert set(ours) == set(theirs)
    assert ours.get("inputs") == theirs.get("inputs")
    assert ours.get("outputs") == theirs.get("outputs")


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready", "/v2/models/other"]
)
def test_probes_agree_on_good_and_bad(urls: tuple[str, str], path: str) -> None:
    ours, theirs = (httpx.get(url + path).status_code for url in urls)
    assert (ours < 400) == (theirs < 400)
