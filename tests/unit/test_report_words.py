"""Numbers show the digits that their intervals own, and bounds never look better than they are."""

from __future__ import annotations

import pytest

from hasten.report import words


def estimate(value: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((1.7234, 1.651, 1.7999), "1.72x (1.65 to 1.80)"),
        ((11.02, 10.6, 11.5), "11.0x (10.6 to 11.5)"),
        ((11.02, 7.0, 15.2), "11x (7 to 16)"),
        ((0.11418, 0.11401, 0.11437), "0.114x (0.114 to 0.115)"),
        ((2.0, None, None), "2x"),
        ((2.0, 2.0, 2.0), "2x"),
    ],
)
def test_a_ratio_shows_what_its_interval_owns(interval: tuple[float, float | None, float | None], text: str) -> None:
    assert words.ratio(estimate(*interval)).text == text


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.00146, 0.001443, 0.001488), "1.46 ms (1.44 to 1.49)"),
        ((8.51e-4, 8.43e-4, 8.62e-4), "851 µs (843 to 862)"),
        ((75.0, 74.0, 76.1), "75.0 s (74.0 to 76.1)"),
    ],
)
def test_a_duration_has_one_unit_for_value_and_bounds(interval: tuple[float, float, float], text: str) -> None:
    assert words.seconds(estimate(*interval)).text == text


def test_bounds_are_rounded_outward() -> None:
    shown = words.points(estimate(0.3, 0.101, 0.5004))
    assert (shown.low, shown.high) == ("0.10", "0.51")


def test_a_bound_that_is_exact_in_decimals_is_not_pushed_outward() -> None:
    for hundredths in range(100, 400):
        assert (
            words.ratio(estimate(hundredths / 100, hundredths / 100 - 0.05, hundredths / 100 + 0.05)).high
            == f"{hundredths / 100 + 0.05:.2f}"
        )


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert words.points(estimate(-0.001, -0.1, 0.1)).value == "0.00"


@pytest.mark.parametrize("nothing", [None, {}, {"value": None}, {"value": float("nan"), "low": 0.0, "high": 1.0}])
def test_what_is_not_known_is_a_dash(nothing: dict[str, float] | None) -> None:
    assert words.seconds(nothing).text == words.ratio(nothing).text == words.points(nothing).text == words.NONE


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((1.5, 1.4, 1.6), "1.50x faster"),
        ((0.5, 0.48, 0.52), "2.00x slower"),
        ((1.01, 0.98, 1.04), "as fast"),
        ((3.0, None, None), "3x faster"),
    ],
)
def test_faster_is_only_said_where_the_whole_interval_says_it(interval: tuple[float, float | None, float | None], text: str) -> None:
    assert words.times(estimate(*interval)) == text
