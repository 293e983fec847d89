"""A revocation that is pending ends what the durable store will end, and nothing else."""

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from sidegate.core.condition import Condition
from sidegate.core.judge import judge
from sidegate.core.pending import PendingRevocation
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Deny, Reason
from tests.contracts.test_conditions import FIELDS, made
from tests.contracts.values import TESTER, a_session, an_id
from tests.support.clock import NOON

SECOND = timedelta(seconds=1)
BEFORE = NOON - SECOND


def pending(**condition: Any) -> PendingRevocation:
    return PendingRevocation.of(
        "1", Condition(**condition), at=NOON, by=TESTER, reason="reported stolen"
    )


def test_the_session_that_is_meant_is_its_tombstone() -> None:
    session = a_session(at=BEFORE)

    tombstone = pending(session_id=session.id).applied(session)

    assert judge(tombstone, NOON) == Deny(Reason.REVOKED)
    assert tombstone.freshness > session.freshness
    assert tombstone == session.revoked(NOON)


def test_each_copy_of_it_ends_for_the_digest_it_answers_for() -> None:
    session = a_session(at=BEFORE).rotated(a_session().digest, 10 * SECOND, BEFORE)
    revocation = pending(session_id=session.id)

    for copy in session.copies():
        assert revocation.applied(copy) == copy.revoked(NOON)


def test_whatever_becomes_of_it_meanwhile_it_has_ended() -> None:
    session = a_session(at=BEFORE)
    rotated = session.rotated(a_session().digest, 10 * SECOND, NOON + SECOND)

    assert pending(session_id=session.id).applied(rotated).revoked_at == NOON


def test_one_that_looks_idle_has_ended_too() -> None:
    """It may have been seen by somebody who has not written it down yet."""
    session = a_session(at=NOON - timedelta(hours=1))

    assert pending(session_id=session.id).applied(session).revoked_at == NOON


@pytest.mark.parametrize(
    "session",
    [a_session(expires_at=NOON, at=BEFORE), a_session(at=BEFORE).revoked(BEFORE), a_session()],
    ids=["expired", "revoked before", "another"],
)
def test_what_it_does_not_mean_stays_as_it_is(session: Session) -> None:
    other = pending(session_id=an_id())
    same = pending(session_id=session.id)

    assert other.applied(session) == session
    if session.revoked_at is not None or session.expires_at <= NOON:
        assert same.applied(session) == session


def test_of_many_those_that_begin_later_are_not_meant() -> None:
    revocation = pending(user_id="ada")

    assert revocation.applied(a_session(at=BEFORE)).revoked_at == NOON
    assert revocation.applied(a_session(at=NOON)).revoked_at is None


def test_all_but_one_spares_that_one() -> None:
    current, other = a_session(at=BEFORE), a_session(at=BEFORE)
    revocation = pending(user_id="ada", except_id=current.id, type=SessionType.WEB)

    assert revocation.applied(current) == current
    assert revocation.applied(other).revoked_at == NOON


@pytest.mark.parametrize("field", FIELDS)
def test_a_condition_decides_alone_what_a_session_tells(field: str) -> None:
    condition, alike, different = FIELDS[field]
    beyond = {"tenant", "provider", "subject_unknown", "ip_within", "user_agent_contains"} | {
        "last_seen_before"
    }
    given = {f.name for f in fields(Condition) if getattr(condition, f.name) is not None}

    assert condition.decidable is not bool(given & beyond)
    if condition.decidable:
        assert all(condition.matches(made(each).session) for each in alike)
        assert not any(condition.matches(made(each).session) for each in different)
