"""Durations: added up by many, subtracted by windows, and read within the promised error."""

from bisect import bisect_right
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.durations import BOUNDS, Durations

SECOND = 1_000_000
TEN_YEARS = 3650 * 86_400 * SECOND

some = st.lists(st.integers(0, TEN_YEARS), min_size=1, max_size=50)


def lasting(*microseconds: int) -> Durations:
    buckets = [bisect_right(BOUNDS, each) for each in microseconds]
    return Durations({each: buckets.count(each) for each in buckets}, sum(microseconds))


def test_where_nothing_ended_there_is_no_duration() -> None:
    assert Durations().measures() == {"average": None, "p50": None, "p95": None}


def test_buckets_grow_from_a_second_to_more_than_any_lifetime() -> None:
    assert BOUNDS[0] == SECOND
    assert BOUNDS[-1] > TEN_YEARS
    for one, next_one in pairwise(BOUNDS):
        assert next_one / one == pytest.approx(2 ** (1 / 8))


@given(some)
def test_the_average_is_exact(spans: list[int]) -> None:
    assert lasting(*spans).average == pytest.approx(sum(spans) / len(spans) / SECOND)


@given(some, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_a_quantile_is_off_by_no_more_than_is_promised(spans: list[int], share: float) -> None:
    exact = sorted(spans)[max(1, ceil(share * len(spans))) - 1] / SECOND
    found = lasting(*spans).quantile(share)
    assert found == pytest.approx(exact, rel=0.045, abs=0.5 if exact < 1 else 0)


def test_what_is_longer_than_all_buckets_is_taken_for_the_longest() -> None:
    assert lasting(BOUNDS[-1] * 9).quantile(0.5) == BOUNDS[-1] / SECOND


@given(some, some)
def test_what_came_after_is_what_is_left_without_what_was_before(
    before: list[int], after: list[int]
) -> None:
    added = lasting(*before, *after).since(lasting(*before))
    assert added.measures() == lasting(*after).measures()


def test_an_end_that_was_taken_back_is_no_duration() -> None:
    before, after = lasting(5 * SECOND, 9 * SECOND), lasting(9 * SECOND)
    left = after.since(before)
    assert left.measures() == {"average": None, "p50": None, "p95": None}
    both = lasting(9 * SECOND, 60 * SECOND).since(before)
    assert both.quantile(0.5) == pytest.approx(60, rel=0.045)
