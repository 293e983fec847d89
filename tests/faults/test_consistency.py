"""Lists, limits, the audit trail, and unanswered checks."""

from tests.faults.consistency import find_final_violations, find_wrong_lists
from tests.faults.history import Entry, Result, TokenCategory
from tests.faults.sample_entries import (
    active_count,
    create,
    event,
    listing,
    redis_data_loss,
    refresh,
    refused,
    revoke,
    unavailable,
)


def final_violations(*history: Entry) -> list[str]:
    return [violation.invariant for violation in find_final_violations(history)]


def list_violations(*history: Entry) -> list[str]:
    return [violation.invariant for violation in find_wrong_lists(history)]


CREATED = (create(0.0), event("create", 1))
REVOKED = (*CREATED, revoke(5.0), event("revoke", 2))


# --- I5: lists show the active sessions


def test_i5_list_without_an_active_session_is_a_violation() -> None:
    assert list_violations(create(0.0), listing(1.0, "s1")) == []
    assert list_violations(create(0.0), listing(1.0)) == ["I5"]


def test_i5_list_with_a_revoked_session_is_a_violation() -> None:
    assert list_violations(create(0.0), revoke(5.0), listing(6.0)) == []
    assert list_violations(create(0.0), revoke(5.0), listing(6.0, "s1")) == ["I5"]


def test_i5_session_being_revoked_may_be_listed_or_not() -> None:
    history = (create(0.0), revoke(5.0, end=7.0))
    assert (
        list_violations(*history, listing(6.0))
        == list_violations(*history, listing(6.0, "s1"))
        == []
    )


def test_i5_session_being_created_may_be_listed_or_not() -> None:
    history = (create(0.0, end=2.0),)
    assert (
        list_violations(*history, listing(1.0))
        == list_violations(*history, listing(1.0, "s1"))
        == []
    )


# --- I7: limits


def test_i7_more_active_sessions_than_the_limit_are_a_violation() -> None:
    assert final_violations(active_count(3)) == []
    assert final_violations(active_count(4)) == ["I7"]


# --- I8: one event for each change


def test_i8_one_event_for_each_change_passes() -> None:
    assert final_violations(*REVOKED) == []


def test_i8_creation_without_event_is_a_violation() -> None:
    other = event("create", 1, session="s2", user="bob"), create(0.0, session="s2", user="bob")
    assert final_violations(create(0.0), *other) == ["I8"]


def test_i8_revocation_without_event_is_a_violation() -> None:
    assert final_violations(*CREATED, revoke(5.0)) == ["I8"]


def test_i8_two_events_for_one_revocation_are_a_violation() -> None:
    assert final_violations(*REVOKED, event("revoke", 3)) == ["I8"]


def test_i8_duplicate_version_is_a_violation() -> None:
    assert "I8" in final_violations(*CREATED, event("create", 1))


def test_i8_repeated_revocation_has_one_event() -> None:
    assert final_violations(*REVOKED, revoke(6.0)) == []


def test_i8_revoke_event_without_a_request_is_a_violation() -> None:
    assert final_violations(*CREATED, event("revoke", 2)) == ["I8"]


def test_i8_revocation_without_response_may_have_an_event_or_not() -> None:
    history = (*CREATED, revoke(5.0, Result.INFO))
    assert final_violations(*history) == final_violations(*history, event("revoke", 2)) == []


def test_i8_revocation_answered_with_202_may_be_lost_with_redis() -> None:
    history = (*CREATED, revoke(5.0, status=202))
    assert final_violations(*history) == ["I8"]
    assert final_violations(*history, redis_data_loss(6.0)) == []


def test_i8_concurrent_refreshes_have_one_event() -> None:
    history = (*CREATED, refresh(5.0), refresh(5.0, instance="other"))
    assert final_violations(*history) == ["I8"]
    assert final_violations(*history, event("refresh", 2)) == []
    assert final_violations(*history, event("refresh", 2), event("refresh", 3)) == ["I8"]


def test_i8_refresh_without_response_may_have_an_event_or_not() -> None:
    history = (*CREATED, refresh(5.0, Result.INFO))
    assert final_violations(*history) == final_violations(*history, event("refresh", 2)) == []


def test_i8_unknown_session_needs_a_login_without_response() -> None:
    unknown = event("create", 1, session="s9")
    assert final_violations(*CREATED, unknown) == ["I8"]
    assert final_violations(*CREATED, unknown, create(3.0, Result.INFO, key="k9")) == []


def test_i8_retried_login_creates_one_session() -> None:
    unknown = event("create", 1, session="s9")
    assert final_violations(*CREATED, unknown, create(-1.0, Result.INFO)) == ["I8"]


# --- I12: every check is answered after the restart


def test_i12_missing_response_after_restart_is_a_violation() -> None:
    assert final_violations(unavailable(90.0, after_restart=True)) == ["I12"]


def test_i12_response_to_the_second_attempt_counts() -> None:
    first = unavailable(90.0, after_restart=True, retried=True, end=91.0)
    assert (
        final_violations(
            refused(90.5, TokenCategory.ENDED, after_restart=True, is_retry=True), first
        )
        == []
    )
