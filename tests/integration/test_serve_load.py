"""What the serving benchmark counts: every request once, whatever a server does with connections; figures of several runs in one file."""

from __future__ import annotations

import asyncio
import importlib
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REQUEST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\nx"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return BENCHMARKS


def loaded(answer: bytes, folder: Path, *, closes: bool, phases: list[tuple[float, float]]) -> tuple[list[int], int]:
    """The generator against a server that gives everybody `answer`: the status of each request, and how many the server saw."""
    generator = importlib.import_module("serve_generator")
    (folder / "request.bin").write_bytes(REQUEST)
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        while await reader.read(1 << 16):
            seen += 1
            writer.write(answer)
            if closes:
                break
        writer.close()

    async def both() -> list[int]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = "{}:{}".format(*server.sockets[0].getsockname())
        files = [folder / "request.bin"]
        load = await generator.run(Namespace(address=address, requests=files, connections=3, phases=phases, poisson=False))
        server.close()
        return [sample.status for sample in load.samples]

    return asyncio.run(both()), seen


def test_a_server_that_closes_every_connection_gets_every_request(benchmark: Path, tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    assert loaded(answer, tmp_path, closes=True, phases=[(100.0, 0.3)]) == ([200] * 30, 30)


def test_an_answer_that_does_not_end_is_none(benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("serve_generator"), "GRACE_SECONDS", 0.2)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok"
    statuses, _ = loaded(answer, tmp_path, closes=False, phases=[(100.0, 0.05)])
    assert statuses == [0] * 5


def test_figures_of_other_runs_stay_with_their_date(benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = importlib.import_module("common")
    monkeypatch.setattr(common, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    former = {"name": "x", "date": "2020-01-01", "machine": "another", "figures": {"a": common.figure(1), "b": common.figure(2)}}
    (tmp_path / "results" / "x.json").write_text(json.dumps(former))
    common.write("x", common.merged("x", {"b": {**common.figure(3), "seconds": 300.0}}))
    common.write("x", common.merged("x", {"c": common.figure(4)}))
    figures = common.known_figures("x")
    assert {key: one["value"] for key, one in figures.items()} == {"a": 1, "b": 3, "c": 4}
    assert (figures["a"]["date"], figures["a"]["machine"]) == ("2020-01-01", "another")
    assert figures["b"]["date"] > "2020-01-01"
    assert figures["b"]["seconds"] == 300.0


def test_memory_that_is_kept_from_the_start_is_no_growth(benchmark: Path) -> None:
    growth = importlib.import_module("serve_load").growth
    assert growth([100, *[150] * 49]) == 0
    assert growth([int(value) for value in np.linspace(1000, 2000, 50)]) == pytest.approx(0.46, abs=0.05)
