"""What is read of instances from outside: counters that begin anew, and holdings that grow."""

from dataclasses import replace

from tests.faults.stage import answered, failed, hits
from tests.faults.watch import Counters, Holdings, Series, read_series, remembered

PAGE = """\
# HELP sidegate_checks_total Checks answered.
# TYPE sidegate_checks_total counter
sidegate_checks_total{gateway="forward-auth",result="allow",reason="ok"} 12.0
sidegate_checks_total{gateway="forward-auth",result="deny",reason="forged"} 3.0
sidegate_memory_sessions 1e3
"""


def counters(**series: str) -> Counters:
    return Counters({name: read_series(text) for name, text in series.items()})


def checks(number: int) -> str:
    return f'sidegate_checks_total{{gateway="forward-auth",result="allow",reason="ok"}} {number}\n'


def test_a_page_is_read_line_by_line() -> None:
    series: Series = read_series(PAGE)
    assert len(series) == 3
    assert series["sidegate_memory_sessions", frozenset()] == 1000


def test_growth_is_added_up_over_instances_and_labels() -> None:
    before = counters(one=PAGE, other=checks(5))
    after = counters(one=PAGE + checks(20), other=checks(6))
    assert after.since(before, "sidegate_checks_total") == 9
    assert after.since(before, "sidegate_checks_total", result="allow") == 9
    assert after.since(before, "sidegate_checks_total", reason="forged") == 0


def test_an_instance_that_was_started_again_counts_from_nothing() -> None:
    before, after = counters(one=checks(50)), counters(one=checks(7))
    assert after.since(before, "sidegate_checks_total") == 7


def test_an_instance_that_did_not_answer_before_counts_from_nothing() -> None:
    assert counters(one=checks(7)).since(counters(), "sidegate_checks_total") == 7


def look_ups(outcome: str, number: int) -> str:
    labels = f'store="redis",outcome="{outcome}"'
    return f"sidegate_lookup_duration_seconds_count{{{labels}}} {number}\n"


def test_a_look_up_that_failed_has_reached_nobody() -> None:
    before = counters(one=look_ups("error", 1))
    after = counters(one=look_ups("error", 9))
    assert not answered("redis")(before, after)
    assert failed("redis")(before, after) == 8


def test_who_gets_sessions_from_redis_is_told_of_each_instance_alone() -> None:
    before = counters(one=look_ups("hit", 1), other=look_ups("hit", 1))
    after = counters(one=look_ups("hit", 5), other=look_ups("hit", 1) + look_ups("miss", 7))
    assert hits("one")(before, after) == 4
    assert not hits("other")(before, after)
    assert not hits("one")(before, counters(other=look_ups("hit", 9)))


def test_what_an_instance_remembers_is_read_from_its_metrics() -> None:
    page = "sidegate_memory_sessions 2\nsidegate_memory_bytes 2570.0\n"
    assert remembered(read_series(page)) == 2570
    assert remembered({}) == 0


BASE = Holdings(memory=1000, descriptors=100, redis=10, postgres=9, series=300)


def test_a_tenth_more_is_nothing_to_speak_of() -> None:
    grown = Holdings(memory=1100, descriptors=110, redis=11, postgres=10, series=330)
    assert list(grown.beyond(BASE)) == []


def test_more_than_that_is_told() -> None:
    assert list(replace(BASE, redis=12).beyond(BASE)) == ["redis 12, was 10"]
