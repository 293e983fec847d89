"""A pending revocation matches the sessions that the database will revoke, and no others."""

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from sidegate.core.condition import Condition
from sidegate.core.judge import judge
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Deny, Reason
from tests.contracts.test_conditions import CONDITIONS, build_matching_record
from tests.contracts.values import TESTER, build_session, build_session_id
from tests.support.clock import NOON

SECOND = timedelta(seconds=1)
BEFORE = NOON - SECOND


def pending(**condition: Any) -> PendingRevocation:
    return PendingRevocation.create(
        "1", Condition(**condition), at=NOON, by=TESTER, reason="reported stolen"
    )


def test_matching_session_becomes_its_tombstone() -> None:
    session = build_session(at=BEFORE)

    tombstone = pending(session_id=session.id).apply(session)

    assert judge(tombstone, NOON) == Deny(Reason.REVOKED)
    assert tombstone.freshness > session.freshness
    assert tombstone == session.revoked(NOON)


def test_every_copy_of_a_matching_session_is_revoked() -> None:
    session = build_session(at=BEFORE).rotated(build_session().digest, 10 * SECOND, at=BEFORE)
    revocation = pending(session_id=session.id)

    for copy in session.copies():
        assert revocation.apply(copy) == copy.revoked(NOON)


def test_session_rotated_meanwhile_is_revoked() -> None:
    session = build_session(at=BEFORE)
    rotated = session.rotated(build_session().digest, 10 * SECOND, at=NOON + SECOND)

    assert pending(session_id=session.id).apply(rotated).revoked_at == NOON


def test_idle_session_is_revoked() -> None:
    """Another instance may have allowed it and not persisted the touch yet."""
    session = build_session(at=NOON - timedelta(hours=1))

    assert pending(session_id=session.id).apply(session).revoked_at == NOON


@pytest.mark.parametrize(
    "session",
    [
        build_session(expires_at=NOON, at=BEFORE),
        build_session(at=BEFORE).revoked(BEFORE),
        build_session(),
    ],
    ids=["expired", "revoked before", "another"],
)
def test_expired_revoked_or_other_session_is_unchanged(session: Session) -> None:
    other = pending(session_id=build_session_id())
    same = pending(session_id=session.id)

    assert other.apply(session) == session
    if session.revoked_at is not None or session.expires_at <= NOON:
        assert same.apply(session) == session


def test_session_created_later_is_not_revoked() -> None:
    revocation = pending(user_id="ada")

    assert revocation.apply(build_session(at=BEFORE)).revoked_at == NOON
    assert revocation.apply(build_session(at=NOON)).revoked_at is None


def test_excluded_session_is_not_revoked() -> None:
    current, other = build_session(at=BEFORE), build_session(at=BEFORE)
    revocation = pending(user_id="ada", except_id=current.id, type=SessionType.WEB)

    assert revocation.apply(current) == current
    assert revocation.apply(other).revoked_at == NOON


@pytest.mark.parametrize("field", CONDITIONS)
def test_decidable_condition_matches_as_the_stores_do(field: str) -> None:
    condition, alike, different = CONDITIONS[field]
    undecidable = {"tenant", "provider", "subject_unknown", "ip_within", "user_agent_contains"} | {
        "last_seen_before"
    }
    used = {f.name for f in fields(Condition) if getattr(condition, f.name) is not None}

    assert condition.is_decidable is not bool(used & undecidable)
    if condition.is_decidable:
        assert all(condition.matches(build_matching_record(each).session) for each in alike)
        assert not any(condition.matches(build_matching_record(each).session) for each in different)
