"""Bundles of the runtime `faulty`, and how a server of one, called `m`, is asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import faulty_runtime
import httpx
import numpy as np
import pytest

from hasten.bundle.write import write
from hasten.core import registry

INFER = "/v2/models/m/infer"


@contextmanager
def registered() -> Iterator[None]:
    """The runtime is known, here and in child processes."""
    before = set(sys.modules)
    registry.add_plugin(Path(faulty_runtime.__file__))
    try:
        yield
    finally:
        os.environ.pop("HASTEN_PLUGINS")
        for name in set(sys.modules) - before:
            if name.startswith("hasten_plugin_"):
                del sys.modules[name]


def save(folder: Path, *, factor: int = 2) -> Path:
    """A bundle: y = factor * x, [N, any]."""
    folder.mkdir()
    spec = bundles.TensorSpec(name="x", dtype="float32", shape=(None, None))
    signature = bundles.Signature(inputs=(spec,), outputs=(replace(spec, name="y"),))
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    contents = bundles.contents(folder, signature, bundles.Samples(inputs={"x": x}), runtime_name="faulty", metric="cosine")
    (folder / "program/factor").write_text(str(factor))
    return write(replace(contents, golden_outputs={"y": factor * x}), folder / "out")


def make_gates(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[float, Path]:
    """Pipes that hold calls up, by the number that a sample begins with."""
    made = {}
    for number, variable in faulty_runtime.GATES.items():
        made[number] = folder / variable
        os.mkfifo(made[number])
        monkeypatch.setenv(variable, str(made[number]))
    return made


def asked(*rows: tuple[float, float], **parameters: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": rows}], "parameters": parameters}


def ask(url: str, *rows: tuple[float, float], **parameters: Any) -> httpx.Response:
    return httpx.post(url + INFER, json=asked(*rows, **parameters), timeout=60)


def outputs(reply: httpx.Response) -> list[float]:
    """The numbers of an answer, which must be one."""
    assert reply.status_code == 200, reply.text
    return reply.json()["outputs"][0]["data"]  # type: ignore[no-any-return]
