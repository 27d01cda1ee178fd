"""What the report says: the right sentence for each verdict, honest digits, and nothing that could leave the file."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import report_fixture as fixture

from hasten.report import plots
from hasten.report.html import render
from hasten.report.story import Story, badge, changes, figures, headline, measured_how

SECTIONS = [
    "answer", "front", "candidates", "lessons", "forecasts", "speed", "disagreements", "machine", "account", "how", "decisions", "repeat",
]  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return render(fixture.manifest(), fixture.evidence())


def story(**changed: Any) -> Story:
    return Story.of({**fixture.manifest(), "answer": {**fixture.answer(), **changed}}, fixture.evidence())


def test_all_sections_stand_in_their_order(page: str) -> None:
    assert re.findall(r'<(?:section|header) id="(\w+)"', page) == SECTIONS


def test_what_training_told_is_shown_once_by_the_shortest_recipe() -> None:
    evidence, notes = fixture.evidence(), ["cut 50% of the parameters", "as wide as before: <head>"]
    trials = [r for r in evidence if r["kind"] == "trial"]
    for trial in (trials[1], trials[5]):
        trial["notes"] = notes
    shown = render(fixture.manifest(), evidence)
    section = shown[shown.index('<section id="trainings">') : shown.index('<section id="forecasts">')]
    assert section.count("<li>") == 1
    assert "as wide as before: &lt;head&gt;" in section
    assert "static-int8" not in section
    assert "simplify" in section


def test_a_typical_report_is_small_and_asks_the_network_for_nothing(page: str) -> None:
    assert len(page.encode()) < 500_000
    assert "://" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert all(target.startswith("data:image/png;base64,") for target in re.findall(r'src="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))


def test_every_tag_is_closed_and_every_id_is_its_own(page: str) -> None:
    class Checker(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.ids: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.ids += [str(value) for name, value in attrs if name == "id"]
            if tag not in ("meta", "img", "br"):
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.ids += [str(value) for name, value in attrs if name == "id"]

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))


def test_plots_take_the_colours_of_the_page(page: str) -> None:
    drawing = plots.pareto(story(), plots.WIDE)
    assert "var(--accent)" in drawing
    assert not re.search(r"#[0-9a-f]{6}\b(?!\")", re.sub(r"(?:href|url)[^ ]*", "", drawing))


def test_the_same_evidence_gives_the_same_bytes(page: str) -> None:
    assert render(fixture.manifest(), fixture.evidence()) == page


def test_text_from_the_run_is_escaped() -> None:
    manifest, evidence = fixture.minimal()
    evil = '<img src=x onerror="alert(1)">'
    manifest["model_name"] = evil
    evidence[0] |= {"reason": evil, "fate": "failed", "recipe": [evil], "text": evil, "latency": {"value": 1.0, "low": 0.9, "high": 1.1}}
    second = {**evidence[0], "id": "b", "latency": {"value": 2.0, "low": 1.9, "high": 2.1}}
    page = render(
        manifest, [*evidence, second, {"kind": "disagreement", "index": 0, "label": evil, "start": evil, "answer": evil, "picture": evil}]
    )
    assert "<img" not in page
    assert "&lt;img" in page


@pytest.mark.parametrize("picture", [None, "", "!!", "R0lGODlhAQABAAAAACw="])
def test_a_disagreement_without_a_png_names_the_sample(picture: str | None) -> None:
    record = {"kind": "disagreement", "index": 1234, "label": None, "start": 3, "answer": 5, "picture": picture}
    page = render(*_minimal_with(record))
    assert "sample 1,234" in page
    assert "<img" not in page


def test_the_least_evidence_still_makes_every_section() -> None:
    page = render(*fixture.minimal())
    assert re.findall(r'<(?:section|header) id="(\w+)"', page) == SECTIONS
    assert "Nothing beats tiny as it was" in re.sub("<[^>]*>", "", page)
    assert not re.search(r"\b(None|nan|null)\b", re.sub("<[^>]*>", " ", page))


def test_no_evidence_at_all_is_a_report_too() -> None:
    assert "Nothing was tried" in render({}, [])


def test_the_headline_tells_what_was_certified() -> None:
    exact = {"over_start": {"value": 11.02, "low": 10.6, "high": 11.5}, "over_lossless": {"value": 1.72, "low": 1.65, "high": 1.80}}
    assert headline(story(speedup=exact)).replace("**", "") == (
        "MobileNetV2 is 1.72x faster (1.65 to 1.80) than the fastest lossless program and 11.0x faster than it was, "
        "losing 0.03 points of accuracy (upper bound 0.15, allowed 0.5): certified on 6,000 samples that the search never saw."
    )


def test_a_negative_drop_is_a_gain_with_its_worst_case() -> None:
    said = headline(story(drop_points={"value": -0.03, "low": -0.16, "high": 0.09, "n": 10000}))
    assert "gaining 0.03 points of accuracy (upper bound of the loss 0.09, allowed 0.5)" in said


def test_a_lossless_answer_claims_no_certificate() -> None:
    said = headline(story(drop_points=None))
    assert said.endswith("with the same outputs up to rounding.")
    assert "certified" not in said


def test_undecided_is_not_sold_as_certified() -> None:
    said = headline(story(verdict="undecided", drop_points={"value": 1.0, "low": -2.0, "high": 4.0, "n": 48}))
    assert "48 samples cannot decide" in said
    assert "certified" not in said


def test_failed_limits_give_the_reason() -> None:
    said = headline(story(verdict="failed", reason="the smallest program takes 21 MB, 20 are allowed.", answer=None, speedup=None))
    assert said == "**No program of MobileNetV2 keeps the limits**: the smallest program takes 21 MB, 20 are allowed."


@pytest.mark.parametrize(("label", "said"), [("measured", "Measured: "), ("estimated", "Estimated, not measured: ")])
def test_energy_is_never_shown_without_its_label(label: str, said: str) -> None:
    joules = {"value": 0.0022, "low": 0.002, "high": 0.0024, "label": label}
    chosen = {**fixture.answer()["answer"], "energy_joules": joules}
    run = {"kind": "run", "model_name": "net", "objective": "energy", "energy": {"label": label, "how": "by some means"}}
    start = {"kind": "trial", "id": "s", "fate": "start", "energy": {"value": 0.005, "low": 0.0048, "high": 0.0052, "label": label}}
    told = Story.of({"answer": {**fixture.answer(), "answer": chosen}}, [run, start])
    assert ("Energy of a call", "2.20 mJ", f"{label}, 2.00 to 2.40") in figures(told)
    assert f"takes **2.20 mJ** a call instead of 5.00 mJ ({label})" in headline(told)
    assert ("Energy", f"{said}by some means.") in measured_how(told)
    assert label in render({"answer": told.answer}, [run, start])


def test_unknown_energy_is_said_to_be_unknown() -> None:
    told = Story.of({}, [{"kind": "run", "energy": {"label": "unknown", "how": "there are no counters"}}])
    assert ("Energy", "Unknown: there are no counters.") in measured_how(told)
    assert not any(name.startswith("Energy") for name, _, _ in figures(told))


def test_a_search_that_has_not_ended_says_so_first() -> None:
    unfinished = story(verdict="unfinished", drop_points=None)
    assert headline(unfinished).startswith("**The search has not ended**")
    assert "Nothing is certified" in headline(unfinished)
    assert badge(unfinished.answer) == "Search not ended"


def test_a_reference_answer_tells_the_gain_over_the_start_only_beyond_the_noise() -> None:
    gained = {"over_start": {"value": 6.3, "low": 6.1, "high": 6.5}, "over_lossless": None}
    same = {"over_start": {"value": 1.01, "low": 0.98, "high": 1.04}, "over_lossless": None}
    assert "6.30x faster** than the model was" in headline(story(verdict="reference", speedup=gained, drop_points=None))
    assert "than the model was" not in headline(story(verdict="reference", speedup=same, drop_points=None))


def test_changed_samples_are_counted_pair_by_pair() -> None:
    record = {"kind": "outcomes", "split": "certify", "metric": "accuracy", "start": [1, 1, 0, 0, 1], "answer": [1, 0, 1, 0, 0]}
    assert changes(Story.of(*_minimal_with(record))) == "Of 5 samples, 2 went from right to wrong and 1 from wrong to right."
    continuous = {**record, "start": [0.5, 0.7], "answer": [0.4, 0.7]}
    assert changes(Story.of(*_minimal_with(continuous))) == ""


def test_a_hopeless_candidate_does_not_flatten_the_picture() -> None:
    drawing = plots.pareto(story(), plots.WIDE)
    ticks = [float(t.replace("\N{MINUS SIGN}", "-")) for t in re.findall(r">(\N{MINUS SIGN}?\d+\.\d+)</text>", drawing)]
    assert max(t for t in ticks if t != 14.3) < 2
    assert "14.3" in drawing


def test_without_drops_or_quality_the_picture_shows_size() -> None:
    trials = [{k: v for k, v in r.items() if k not in ("drop", "quality")} for r in fixture.evidence() if r["kind"] == "trial"]
    title, points = plots.pareto_points(Story.of(fixture.manifest(), trials))
    assert title == "Size, MB"
    assert len(points) == 13


def test_labels_of_the_picture_do_not_overlap() -> None:
    drawing = plots.pareto(story(), plots.NARROW)
    spots = [(float(x), float(y)) for x, y in re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>(?:start|reference|answer)<', drawing)]
    assert len(spots) == 3
    assert all(abs(p[0] - q[0]) > 40 or abs(p[1] - q[1]) > 10 for i, p in enumerate(spots) for q in spots[:i])


def test_how_it_was_measured_counts_the_raw_samples() -> None:
    said = dict(measured_how(story()))
    assert "5 programs ran in turn for 40 rounds in 4 blocks" in said["Final race"]
    assert "1,800 timed calls, 2 threads, 1 sample a call" in said["Final race"]
    assert "6,000 to certify" in said["Data"]


def _minimal_with(*records: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    manifest, evidence = fixture.minimal()
    return manifest, [*evidence, *records]


def test_forecasts_stand_beside_what_came_of_them(page: str) -> None:
    section = page[page.index('id="forecasts"') : page.index('id="speed"')]
    assert "Half of the 2 forecasts were off by less than 33 %; 1 of the 2 ranges" in section
    assert section.count('<tr class="outside">') == 1
    assert "1.60x" in section
    assert "1.72x" in section
