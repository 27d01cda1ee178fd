"""The fast reader of JSON requests and the ordinary one read the same, and refuse the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from hasten.core.errors import DataError
from hasten.core.signature import Signature, TensorSpec
from hasten.serve import flat
from hasten.serve.infer import read_request

pytest.importorskip("simdjson", reason="pip install 'hasten[serve]'")


def signature(*dtypes: str) -> Signature:
    specs = tuple(TensorSpec(name=f"x{k}", dtype=dtype, shape=(None, 3)) for k, dtype in enumerate(dtypes))
    return Signature(inputs=specs, outputs=(TensorSpec(name="y", dtype="float32", shape=(None, 1)),))


def entry(data: Any, datatype: str = "FP32", *, name: str = "x0", shape: Any = (2, 3), **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data, **more}


def read(body: bytes, model: Signature) -> Any:
    """What a request is read as, or the one line that says why not."""
    try:
        found = read_request(body, None, model)
    except DataError as error:
        return str(error)
    return (
        {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in found.tensors.items()},
        found.wanted,
        found.id,
        found.timeout,
    )


SIX = [1, 2.5, -3e-7, 0.1, 16777217, 1e-46]
CASES: dict[str, tuple[Any, Signature]] = {
    "flat": ({"inputs": [entry(SIX)]}, signature("float32")),
    "nested": ({"inputs": [entry([SIX[:3], SIX[3:]])]}, signature("float32")),
    "mixed": ({"inputs": [entry([1, 2, 3, 4, 5, [6]])]}, signature("float32")),
    "several": (
        {"id": "a[b", "inputs": [entry(SIX), entry([1, -2, 3, 4, 5, 127], "INT8", name="x1")], "outputs": [{"name": "y"}]},
        signature("float32", "int8"),
    ),
    "double": ({"inputs": [entry(SIX, "FP64")], "parameters": {"timeout": 3, "binary_data_output": True}}, signature("float64")),
    "half": ({"inputs": [entry([*SIX[:4], 1, 2], "FP16")]}, signature("float16")),
    "large": ({"inputs": [entry([2**63, 2**64 - 1, 0, 1, 2, 3], "UINT64")]}, signature("uint64")),
    "small": ({"inputs": [entry([-(2**63), 2**63 - 1, 0, 1, 2, 3], "INT64")]}, signature("int64")),
    "truths": ({"inputs": [entry([True, False] * 3, "BOOL")]}, signature("bool")),
    "too large": ({"inputs": [entry([1e39] * 6)]}, signature("float32")),
    "out of range": ({"inputs": [entry([128] * 6, "INT8")]}, signature("int8")),
    "negative": ({"inputs": [entry([-1] * 6, "UINT8")]}, signature("uint8")),
    "beyond": ({"inputs": [entry([2**63] * 6, "INT64")]}, signature("int64")),
    "fraction": ({"inputs": [entry([1.0] * 6, "INT64")]}, signature("int64")),
    "a truth among numbers": ({"inputs": [entry([1, True, 3, 4, 5, 6])]}, signature("float32")),
    "text among numbers": ({"inputs": [entry([1, "2", 3, 4, 5, 6])]}, signature("float32")),
    "nothing among numbers": ({"inputs": [entry([1, None, 3, 4, 5, 6])]}, signature("float32")),
    "too few": ({"inputs": [entry(SIX[:5])]}, signature("float32")),
    "none": ({"inputs": [entry([], shape=(0, 3))]}, signature("float32")),
    "no list": ({"inputs": [entry(3)]}, signature("float32")),
    "an object": ({"inputs": [entry({"a": [1]})]}, signature("float32")),
    "wrong type": ({"inputs": [entry(SIX, "FP16")]}, signature("float32")),
    "no type": ({"inputs": [entry(SIX, None)]}, signature("float32")),  # type: ignore[arg-type]
    "wrong shape": ({"inputs": [entry(SIX, shape=([2], 3))]}, signature("float32")),
    "unknown key": ({"inputs": [entry(SIX, more=1)]}, signature("float32")),
    "inputs are no list": ({"inputs": {"x0": 1}}, signature("float32")),
    "inputs are no objects": ({"inputs": [1]}, signature("float32")),
    "no inputs": ({"id": "a"}, signature("float32")),
    "no object": ([1], signature("float32")),
}


@pytest.mark.parametrize("name", CASES)
def test_both_readers_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, model = CASES[name]
    ways = []
    for worth in (0, 10**9):
        monkeypatch.setattr(flat, "WORTH_BYTES", worth)
        ways.append(read(json.dumps(content).encode(), model))
    assert ways[0] == ways[1]


@pytest.mark.parametrize(
    "text", [b"{", b'{"inputs": [{"name": "x0", "data": [NaN]}]}', b"\xff", b"[" * 5000, b'{"id": "\\ud800"}', b'{"inputs": [1]} x']
)
def test_what_is_no_json_is_refused_in_the_same_words(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = []
    for worth in (0, 10**9):
        monkeypatch.setattr(flat, "WORTH_BYTES", worth)
        ways.append(read(text, signature("float32")))
    assert ways[0] == ways[1]
    assert isinstance(ways[0], str)


def test_flat_numbers_are_read_as_arrays_time_and_again() -> None:
    body = json.dumps({"inputs": [entry(list(range(3000)), shape=(1000, 3))]}).encode()
    for _ in range(3):
        data = flat.parse_infer(body)["inputs"][0]["data"]
        assert isinstance(data, np.ndarray)
        np.testing.assert_array_equal(data, np.arange(3000))
