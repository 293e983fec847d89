"""What a row of the table tells: shares, percentiles, recovery."""

from math import inf

import pytest

from tests.faults.figures import Figures, figures, percentile, revoked_during
from tests.faults.history import Entry, Road
from tests.faults.made_up import allowed, create, fault, refused, revoke, stall, unavailable

FAULT = fault(10.0, 20.0)


def seen(*history: Entry, only_at: str | None = None) -> Figures:
    return figures([create(0.0), FAULT, *history], [FAULT], only_at=only_at)


def test_the_share_is_of_what_was_asked_during_the_fault() -> None:
    history = [allowed(9.0), allowed(11.0), unavailable(12.0), unavailable(25.0)]
    assert seen(*history).valid == 0.5


def test_a_revocation_falls_into_the_episode_in_which_it_was_asked_for() -> None:
    first, second = fault(10.0, 20.0), fault(30.0, 40.0)
    history = [revoke(9.0), revoke(20.0), revoke(25.0)]
    assert revoked_during(first, history) == 1
    assert revoked_during(second, history) == 0


def test_nothing_asked_is_no_share() -> None:
    assert seen().valid is None


def test_the_dead_and_the_worthless_are_owed_nothing() -> None:
    history = [allowed(11.0), refused(12.0, Road.OVER), refused(12.0, Road.FORGED)]
    assert seen(*history).requests == 1


def test_whoever_is_being_revoked_is_owed_nothing() -> None:
    assert seen(allowed(11.0), revoke(12.0), unavailable(12.5)).valid == 1.0


def test_a_second_try_counts_for_the_request_and_from_its_beginning() -> None:
    first = unavailable(11.0, status=0, retried=True)
    second = allowed(11.3, again=True, asked=11.0, end=11.4)
    assert seen(first, second).valid == 1.0
    assert seen(first, second).p99 == pytest.approx(0.4)


def test_without_postgres_only_what_is_cached_is_owed_an_allow() -> None:
    without_cold = fault(10.0, 20.0, without_cold=True)
    history = [create(0.0), without_cold, allowed(11.0), unavailable(12.0, Road.COLD)]
    assert figures(history, [without_cold]).valid == 1.0


def test_what_redis_was_made_to_forget_is_owed_no_allow_by_who_does_not_remember_it() -> None:
    without_cold = fault(10.0, 20.0, without_cold=True)
    history = [
        create(0.0),
        without_cold,
        allowed(11.0, Road.COLD),  # it was in this instance's memory
        unavailable(12.0, at="other"),
    ]
    assert figures(history, [without_cold]).requests == 0


def test_of_one_instance_alone_count_those_who_came_there_first() -> None:
    history = [
        unavailable(11.0),
        allowed(12.0, at="other"),
        unavailable(13.0, at="other", again=True),
    ]
    assert seen(*history, only_at="other").valid == 1.0


def test_what_met_a_long_wait_for_the_cpu_is_left_out_whatever_came_of_it() -> None:
    history = [
        allowed(11.0),
        unavailable(12.0),
        allowed(12.01, end=12.2),
        stall(12.0, 12.02, waited=0.015),
    ]
    found = seen(*history)
    assert (found.valid, found.left_out) == (1.0, 2)


def test_a_short_wait_or_another_instances_leaves_out_nobody() -> None:
    history = [
        unavailable(12.0),
        stall(12.0, 12.02, waited=0.006),
        stall(12.0, 12.02, waited=0.5, who="other"),
    ]
    assert seen(*history).requests == 1


def test_it_has_recovered_when_no_more_than_bad_luck_is_left() -> None:
    fine = [allowed(20.0 + number / 100) for number in range(1000)]
    assert seen(*fine).recovery == 0.0
    assert seen(*fine, unavailable(21.0), unavailable(22.5)).recovery == 0.0
    troubled = [unavailable(21.0 + number / 100) for number in range(50)]
    assert seen(*fine, *troubled).recovery == pytest.approx(1.48, abs=0.05)


def test_writes_must_have_recovered_too() -> None:
    failed = [revoke(22.0 + number / 10, status=503, session="s2") for number in range(5)]
    assert seen(allowed(21.0), allowed(30.0), *failed).recovery == pytest.approx(2.3)


def test_whoever_still_fails_when_nobody_looks_any_more_has_not_recovered() -> None:
    failing = [unavailable(20.0 + number / 10) for number in range(100)]
    assert seen(*failing).recovery == inf


def test_recovery_is_the_slowest_episodes_and_ends_where_the_next_one_begins() -> None:
    first, second = fault(10.0, 20.0), fault(30.0, 40.0)
    during = [unavailable(31.0), unavailable(32.0), unavailable(33.0)]
    history = [create(0.0), first, second, *during, allowed(45.0)]
    assert figures(history, [first, second]).recovery == 0.0


def test_revocations_are_counted_and_how_long_one_was_not_heard_of() -> None:
    history = [revoke(11.0), allowed(11.51, Road.OVER), refused(12.0, Road.OVER)]
    found = seen(*history)
    assert (found.revocations, found.acknowledged) == (1, 1)
    assert found.late_allow == pytest.approx(0.5)


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (75, 3), (99, 4), (100, 4)])
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile([1, 2, 3, 4], percent) == value
