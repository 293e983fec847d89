"""The duration histogram: sums, differences, averages and quantiles."""

from bisect import bisect_right
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.durations import BOUNDS, Durations

SECOND = 1_000_000
TEN_YEARS = 3650 * 86_400 * SECOND

durations_lists = st.lists(st.integers(0, TEN_YEARS), min_size=1, max_size=50)


def build_durations(*microseconds: int) -> Durations:
    buckets = [bisect_right(BOUNDS, each) for each in microseconds]
    return Durations({each: buckets.count(each) for each in buckets}, sum(microseconds))


def test_summary_without_sessions_is_none() -> None:
    assert Durations().summarize() == {"average": None, "p50": None, "p95": None}


def test_bounds_grow_from_one_second_beyond_the_longest_lifetime() -> None:
    assert BOUNDS[0] == SECOND
    assert BOUNDS[-1] > TEN_YEARS
    for bound, next_bound in pairwise(BOUNDS):
        assert next_bound / bound == pytest.approx(2 ** (1 / 8))


@given(durations_lists)
def test_average_is_exact(durations: list[int]) -> None:
    assert build_durations(*durations).average == pytest.approx(
        sum(durations) / len(durations) / SECOND
    )


@given(durations_lists, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_quantile_error_is_within_the_stated_bound(durations: list[int], share: float) -> None:
    exact = sorted(durations)[max(1, ceil(share * len(durations))) - 1] / SECOND
    quantile = build_durations(*durations).quantile(share)
    assert quantile == pytest.approx(exact, rel=0.045, abs=0.5 if exact < 1 else 0)


def test_duration_beyond_the_last_bound_counts_as_the_last_bound() -> None:
    assert build_durations(BOUNDS[-1] * 9).quantile(0.5) == BOUNDS[-1] / SECOND


@given(durations_lists, durations_lists)
def test_difference_has_only_the_durations_added_since(before: list[int], after: list[int]) -> None:
    added = build_durations(*before, *after).since(build_durations(*before))
    assert added.summarize() == build_durations(*after).summarize()


def test_withdrawn_end_is_not_a_duration() -> None:
    before, after = build_durations(5 * SECOND, 9 * SECOND), build_durations(9 * SECOND)
    difference = after.since(before)
    assert difference.summarize() == {"average": None, "p50": None, "p95": None}
    both = build_durations(9 * SECOND, 60 * SECOND).since(before)
    assert both.quantile(0.5) == pytest.approx(60, rel=0.045)
