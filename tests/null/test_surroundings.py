"""Machines that work for one search have the same versions, sources and plug-ins, or say where they differ."""

from __future__ import annotations

from pathlib import Path

from hasten.search.surroundings import difference, surroundings


def test_a_machine_has_its_own_surroundings() -> None:
    assert difference(surroundings(()), ()) is None


def test_the_first_difference_is_told() -> None:
    have = surroundings(())
    assert difference({**have, "numpy": "0.1"}, ()) == f"must have numpy 0.1, as the search has, but has {have['numpy']}"
    assert difference({**have, "zlib": "3"}, ()) == "must have zlib 3, as the search has, but has none"
    fewer = {name: version for name, version in have.items() if name != "numpy"}
    assert difference(fewer, ()) == f"must have no numpy, as the search has, but has {have['numpy']}"


def test_a_plugin_that_is_not_there_is_a_difference(tmp_path: Path) -> None:
    rule = difference(surroundings(()), (str(tmp_path / "mine.py"),))
    assert rule is not None
    assert "must be a Python file" in rule
