"""What every test relies on: the checkout's own package in child processes too, and a store that is nobody's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> None:
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != SOURCE]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *others])
    os.environ["HASTEN_STORE"] = str(tmp_path_factory.mktemp("store"))
    os.environ.pop("HASTEN_PLUGINS", None)
