"""Medians, ratios, percentiles."""

import pytest

from tests.bench.series import Series, percentile


def test_outlier_does_not_change_the_median() -> None:
    series = Series.of(100.0, 5.0, 101.0, 99.0, 100.0)

    assert (series.low, series.median, series.high) == (5.0, 100.0, 101.0)


def test_ratio_is_computed_per_round() -> None:
    measured, reference = Series.of(10.0, 50.0, 100.0), Series.of(20.0, 100.0, 200.0)

    assert measured.ratio_to(reference) == Series.of(0.5, 0.5, 0.5)


def test_ratio_of_different_numbers_of_rounds_raises() -> None:
    with pytest.raises(ValueError, match="rounds"):
        Series.of(1.0, 2.0).ratio_to(Series.of(1.0))


def test_empty_series_raises() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Series(())


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_percentile_is_a_measured_value(share: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value
