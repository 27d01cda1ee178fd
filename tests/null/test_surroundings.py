"""Machines that work for one process have the same versions, sources and plug-ins, or say where they differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hasten.core.surroundings import Surroundings, difference, surroundings


def wanted(**changes: str) -> Surroundings:
    have = surroundings()
    return replace(have, found={**have.found, **changes})


def test_a_machine_has_its_own_surroundings() -> None:
    assert difference(surroundings()) is None


def test_the_first_difference_is_told() -> None:
    numpy = surroundings().found["numpy"]
    assert difference(wanted(numpy="0.1")) == f"must have numpy 0.1, as the process that asks has, but has {numpy}"
    assert difference(wanted(numpy=numpy, zlib="3")) == "must have zlib 3, as the process that asks has, but has none"
    fewer = {name: version for name, version in surroundings().found.items() if name != "numpy"}
    assert difference(replace(surroundings(), found=fewer)) == f"must have no numpy, as the process that asks has, but has {numpy}"


def test_only_packages_that_count_are_compared() -> None:
    some = surroundings("pillow")
    assert set(some.found) == {"python", "hasten's source", "hasten", "numpy", "pillow"}
    assert difference(some) is None
    assert difference(replace(some, found={**some.found, "pillow": "0.1"})) is not None


def test_a_plugin_that_is_not_there_is_a_difference(tmp_path: Path) -> None:
    rule = difference(replace(surroundings(), plugins=(str(tmp_path / "mine.py"),)))
    assert rule is not None
    assert "must be a Python file" in rule
