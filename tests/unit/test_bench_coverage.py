"""The simulation of many searches (benchmarks/search_coverage.py) goes through the code that real ones do, so it must keep up with it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("section", ["search", "races"])
def test_every_figure_of_a_section_is_a_share(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sections = importlib.import_module("search_coverage").SECTIONS
    figures = dict(sections[section](1))
    assert figures
    shares = [one["value"] for one in figures.values() if one["goal"] is not None]
    assert all(0 <= value <= 1 for value in shares)
