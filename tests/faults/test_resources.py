"""Metrics and resource usage of instances, measured from outside."""

from dataclasses import replace

from tests.faults.context import answered_lookups, failed_lookups, redis_hits
from tests.faults.resources import Counters, ResourceUsage, Series, cached_bytes, parse_series

PAGE = """\
# HELP sidegate_checks_total Checks answered.
# TYPE sidegate_checks_total counter
sidegate_checks_total{gateway="forward-auth",result="allow",reason="ok"} 12.0
sidegate_checks_total{gateway="forward-auth",result="deny",reason="forged"} 3.0
sidegate_memory_sessions 1e3
"""


def make_counters(**series: str) -> Counters:
    return Counters({name: parse_series(text) for name, text in series.items()})


def checks(number: int) -> str:
    return f'sidegate_checks_total{{gateway="forward-auth",result="allow",reason="ok"}} {number}\n'


def test_metrics_page_is_parsed() -> None:
    series: Series = parse_series(PAGE)
    assert len(series) == 3
    assert series["sidegate_memory_sessions", frozenset()] == 1000


def test_increase_is_summed_over_instances_and_labels() -> None:
    before = make_counters(one=PAGE, other=checks(5))
    after = make_counters(one=PAGE + checks(20), other=checks(6))
    assert after.increase(before, "sidegate_checks_total") == 9
    assert after.increase(before, "sidegate_checks_total", result="allow") == 9
    assert after.increase(before, "sidegate_checks_total", reason="forged") == 0


def test_restarted_instance_counts_from_zero() -> None:
    before, after = make_counters(one=checks(50)), make_counters(one=checks(7))
    assert after.increase(before, "sidegate_checks_total") == 7


def test_instance_without_earlier_response_counts_from_zero() -> None:
    assert make_counters(one=checks(7)).increase(make_counters(), "sidegate_checks_total") == 7


def lookups(outcome: str, number: int) -> str:
    labels = f'store="redis",outcome="{outcome}"'
    return f"sidegate_lookup_duration_seconds_count{{{labels}}} {number}\n"


def test_failed_lookup_does_not_count_as_answered() -> None:
    before = make_counters(one=lookups("error", 1))
    after = make_counters(one=lookups("error", 9))
    assert not answered_lookups("redis")(before, after)
    assert failed_lookups("redis")(before, after) == 8


def test_redis_hits_are_counted_per_instance() -> None:
    before = make_counters(one=lookups("hit", 1), other=lookups("hit", 1))
    after = make_counters(one=lookups("hit", 5), other=lookups("hit", 1) + lookups("miss", 7))
    assert redis_hits("one")(before, after) == 4
    assert not redis_hits("other")(before, after)
    assert not redis_hits("one")(before, make_counters(other=lookups("hit", 9)))


def test_cached_bytes_are_read_from_the_metrics() -> None:
    page = "sidegate_memory_sessions 2\nsidegate_memory_bytes 2570.0\n"
    assert cached_bytes(parse_series(page)) == 2570
    assert cached_bytes({}) == 0


BASE = ResourceUsage(memory=1000, descriptors=100, redis=10, postgres=9, series=300)


def test_usage_up_to_a_tenth_above_the_base_passes() -> None:
    grown = ResourceUsage(memory=1100, descriptors=110, redis=11, postgres=10, series=330)
    assert list(grown.exceeding(BASE)) == []


def test_usage_above_that_is_reported() -> None:
    assert list(replace(BASE, redis=12).exceeding(BASE)) == ["redis 12, was 10"]
