"""At rest: what must be true of lists, limits and the audit trail, and when it is not."""

from tests.faults.history import Entry, Result, Road
from tests.faults.made_up import (
    create,
    event,
    forgotten,
    listing,
    living,
    refresh,
    refused,
    revoke,
    unavailable,
)
from tests.faults.trail import breaches_at_rest, wrong_lists


def at_rest(*history: Entry) -> list[str]:
    return [breach.invariant for breach in breaches_at_rest(history)]


def lists(*history: Entry) -> list[str]:
    return [breach.invariant for breach in wrong_lists(history)]


BEGUN = (create(0.0), event("create", 1))
REVOKED = (*BEGUN, revoke(5.0), event("revoke", 2))


# --- I5: lists are true


def test_i5_a_list_that_leaves_out_the_living_is_caught() -> None:
    assert lists(create(0.0), listing(1.0, "s1")) == []
    assert lists(create(0.0), listing(1.0)) == ["I5"]


def test_i5_a_list_that_shows_the_dead_is_caught() -> None:
    assert lists(create(0.0), revoke(5.0), listing(6.0)) == []
    assert lists(create(0.0), revoke(5.0), listing(6.0, "s1")) == ["I5"]


def test_i5_who_is_being_revoked_may_be_listed_or_not() -> None:
    history = (create(0.0), revoke(5.0, end=7.0))
    assert lists(*history, listing(6.0)) == lists(*history, listing(6.0, "s1")) == []


def test_i5_who_is_just_beginning_may_be_listed_or_not() -> None:
    history = (create(0.0, end=2.0),)
    assert lists(*history, listing(1.0)) == lists(*history, listing(1.0, "s1")) == []


# --- I7: limits


def test_i7_more_than_the_limit_at_rest_are_caught() -> None:
    assert at_rest(living(3)) == []
    assert at_rest(living(4)) == ["I7"]


# --- I8: one event for each change


def test_i8_a_trail_that_tells_of_everything_once_is_right() -> None:
    assert at_rest(*REVOKED) == []


def test_i8_a_beginning_without_an_event_is_caught() -> None:
    other = event("create", 1, session="s2", user="bob"), create(0.0, session="s2", user="bob")
    assert at_rest(create(0.0), *other) == ["I8"]


def test_i8_a_revocation_without_an_event_is_caught() -> None:
    assert at_rest(*BEGUN, revoke(5.0)) == ["I8"]


def test_i8_two_events_for_one_revocation_are_caught() -> None:
    assert at_rest(*REVOKED, event("revoke", 3)) == ["I8"]


def test_i8_the_same_version_twice_is_caught() -> None:
    assert "I8" in at_rest(*BEGUN, event("create", 1))


def test_i8_a_revocation_that_was_asked_for_twice_leaves_one_event() -> None:
    assert at_rest(*REVOKED, revoke(6.0)) == []


def test_i8_a_revocation_that_nobody_asked_for_is_caught() -> None:
    assert at_rest(*BEGUN, event("revoke", 2)) == ["I8"]


def test_i8_a_revocation_without_an_answer_may_have_left_an_event_or_not() -> None:
    history = (*BEGUN, revoke(5.0, Result.INFO))
    assert at_rest(*history) == at_rest(*history, event("revoke", 2)) == []


def test_i8_what_was_only_promised_may_be_lost_with_redis() -> None:
    history = (*BEGUN, revoke(5.0, status=202))
    assert at_rest(*history) == ["I8"]
    assert at_rest(*history, forgotten(6.0)) == []


def test_i8_racing_refreshes_leave_one_event() -> None:
    history = (*BEGUN, refresh(5.0), refresh(5.0, at="other"))
    assert at_rest(*history) == ["I8"]
    assert at_rest(*history, event("refresh", 2)) == []
    assert at_rest(*history, event("refresh", 2), event("refresh", 3)) == ["I8"]


def test_i8_a_refresh_without_an_answer_may_have_left_an_event_or_not() -> None:
    history = (*BEGUN, refresh(5.0, Result.INFO))
    assert at_rest(*history) == at_rest(*history, event("refresh", 2)) == []


def test_i8_a_session_nobody_heard_of_comes_from_a_log_in_without_an_answer() -> None:
    stranger = event("create", 1, session="s9")
    assert at_rest(*BEGUN, stranger) == ["I8"]
    assert at_rest(*BEGUN, stranger, create(3.0, Result.INFO, key="k9")) == []


def test_i8_a_log_in_that_was_repeated_until_it_was_answered_began_one_session() -> None:
    stranger = event("create", 1, session="s9")
    assert at_rest(*BEGUN, stranger, create(-1.0, Result.INFO)) == ["I8"]


# --- I12: everybody is answered after the restart


def test_i12_who_had_no_answer_in_the_end_is_told() -> None:
    assert at_rest(unavailable(90.0, last=True)) == ["I12"]


def test_i12_whoever_was_answered_at_the_second_try_was_answered() -> None:
    first = unavailable(90.0, last=True, retried=True, end=91.0)
    assert at_rest(refused(90.5, Road.OVER, last=True, again=True), first) == []
