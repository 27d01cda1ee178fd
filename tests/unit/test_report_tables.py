"""The terminal's tables say what the report says, in any width."""

from __future__ import annotations

import io

import pytest
import report_fixture as fixture
from rich.console import Console, RenderableType

from hasten.report.tables import answer_panel, bench_table, front_table


def printed(renderable: RenderableType, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_panel_says_the_verdict_the_sentence_and_where_things_are() -> None:
    text = printed(answer_panel(fixture.answer(), fixture.evidence()))
    assert "Certified" in text
    assert "MobileNetV2 is 1.7" in text
    assert "out/mobilenet/report.html" in text


@pytest.mark.parametrize("verdict", ["passed", "reference", "undecided", "failed", None])
def test_the_panel_needs_nothing_but_the_verdict(verdict: str | None) -> None:
    assert "╭" in printed(answer_panel({"verdict": verdict}))


def test_the_front_table_lists_every_trial_the_answer_first() -> None:
    trials = [r for r in fixture.evidence() if r["kind"] == "trial"]
    rows = [
        line
        for line in printed(front_table(trials), width=200).splitlines()
        if any(f in line for f in ("answer", "lost", "failed", "passed", "promising", "start", "reference"))
    ]
    assert len(rows) == len(trials)
    assert "answer ●" in rows[0]


def test_the_front_table_fits_a_terminal_of_80_columns() -> None:
    lines = printed(front_table([r for r in fixture.evidence() if r["kind"] == "trial"]), width=80).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "0.03 (≤ 0.20)" in "".join(lines)
    assert len(lines) < 60


def test_the_front_table_marks_an_energy_that_was_estimated() -> None:
    trials = [r for r in fixture.evidence() if r["kind"] == "trial"]
    assert "Energy" not in printed(front_table(trials))
    joules = {"value": 0.0022, "low": 0.002, "high": 0.0024}
    told = [
        {**trials[0], "energy": {**joules, "label": "estimated"}},
        {**trials[1], "energy": {**joules, "label": "measured"}},
        *trials[2:],
    ]
    text = printed(front_table(told), width=200)
    assert text.count("2.20 mJ") == 2
    assert text.count("2.20 mJ est.") == 1


def test_square_brackets_in_names_are_text_not_markup() -> None:
    assert "a[red]b" in printed(bench_table([{"name": "a[red]b", "latency": None}]))


def test_the_bench_table_compares_with_its_first_row() -> None:
    rows = [
        {"name": "old", "latency": {"value": 0.002, "low": 0.0019, "high": 0.0021}, "speedup": None, "size_bytes": 9_000_000},
        {
            "name": "new",
            "latency": {"value": 0.001, "low": 0.00095, "high": 0.00105},
            "speedup": {"value": 2.0, "low": 1.9, "high": 2.1},
            "size_bytes": None,
        },
    ]
    lines = printed(bench_table(rows)).splitlines()
    assert "1x" in lines[1]
    assert "2.00x" in lines[2]
    assert "1.90 to 2.10" in lines[2]
