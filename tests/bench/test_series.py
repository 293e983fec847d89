"""Medians, ratios, percentiles."""

import pytest

from tests.bench.series import Series, percentile


def test_one_wild_round_does_not_move_the_median() -> None:
    series = Series.of(100.0, 5.0, 101.0, 99.0, 100.0)

    assert (series.low, series.median, series.high) == (5.0, 100.0, 101.0)


def test_a_ratio_is_taken_round_by_round() -> None:
    ours, theirs = Series.of(10.0, 50.0, 100.0), Series.of(20.0, 100.0, 200.0)

    assert ours.over(theirs) == Series.of(0.5, 0.5, 0.5)


def test_series_of_different_rounds_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="rounds"):
        Series.of(1.0, 2.0).over(Series.of(1.0))


def test_nothing_is_no_series() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Series(())


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value
