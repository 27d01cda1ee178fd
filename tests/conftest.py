"""What every test relies on: the checkout's own package in child processes too, and a store that is nobody's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> None:
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != SOURCE]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *others])
    os.environ["HASTEN_STORE"] = str(tmp_path_factory.mktemp("store"))
    os.environ.pop("HASTEN_PLUGINS", None)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle whose program fails on demand; its runtime is known as long as the module's tests run."""
    import faulty_server

    with faulty_server.registered():
        yield faulty_server.save(tmp_path_factory.mktemp("faulty") / "parts")


@pytest.fixture
def gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[float, Path]:
    """Pipes that hold up calls of `faulty`, by the number that a sample begins with."""
    import faulty_server

    return faulty_server.make_gates(tmp_path, monkeypatch)
