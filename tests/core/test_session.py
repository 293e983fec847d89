"""Transitions and the validity rule, in every order of events."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidegate.core.errors import SessionEnded
from sidegate.core.judge import judge, may_be_stale
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow, Deny, Reason
from tests.contracts.values import build_digest, build_rotated_session, build_session
from tests.support.clock import NOON

INSTANT = timedelta(microseconds=1)


def transitions(session: Session, at: datetime) -> list[Callable[[], Session]]:
    """Return a callable for every transition."""
    return [
        lambda: session.touched(at),
        lambda: session.extended(at + timedelta(days=9), at),
        lambda: session.rotated(build_digest(), timedelta(seconds=300), at=at),
        lambda: session.migrated(build_digest(), at),
        lambda: session.revoked(at),
    ]


def test_active_session_is_allowed() -> None:
    session = build_session()
    assert judge(session, NOON) == Allow(session)


def test_session_is_denied_from_its_absolute_deadline_on() -> None:
    session = build_session(idle_timeout=None)
    assert isinstance(judge(session, session.expires_at - INSTANT), Allow)
    assert judge(session, session.expires_at) == Deny(Reason.EXPIRED)


def test_session_is_denied_from_its_idle_deadline_on() -> None:
    session = build_session()
    assert session.idle_timeout is not None
    idle_at = session.last_seen_at + session.idle_timeout
    assert isinstance(judge(session, idle_at - INSTANT), Allow)
    assert judge(session, idle_at) == Deny(Reason.IDLE)


def test_touch_moves_the_idle_deadline_but_not_the_absolute_one() -> None:
    session = build_session()
    for _ in range(100):
        later = session.last_seen_at + timedelta(minutes=29)
        if isinstance(judge(session, later), Deny):
            break
        session = session.touched(later)
    assert judge(session, session.expires_at) == Deny(Reason.EXPIRED)
    assert session.expires_at == NOON + timedelta(hours=12)


def test_touch_never_decreases_last_seen_at() -> None:
    session = build_session(last_seen_at=NOON + timedelta(minutes=5))
    assert session.touched(NOON).last_seen_at == NOON + timedelta(minutes=5)


def test_revocation_with_a_future_time_is_in_force_now() -> None:
    assert judge(build_session(revoked_at=NOON + timedelta(days=1)), NOON) == Deny(Reason.REVOKED)


def test_previous_token_is_allowed_until_the_grace_ends() -> None:
    session = build_rotated_session()
    current, previous = session.copies()
    grace_end = NOON + timedelta(seconds=10)
    assert isinstance(judge(previous, grace_end - INSTANT), Allow)
    assert judge(previous, grace_end) == Deny(Reason.REUSED)
    assert isinstance(judge(current, grace_end), Allow)


def test_previous_token_of_a_migrated_session_is_denied_at_once() -> None:
    session = build_session().migrated(build_digest(), NOON)
    assert session.type is SessionType.SSO
    assert judge(session.copies()[1], NOON) == Deny(Reason.REUSED)


def test_every_copy_of_a_tombstone_is_denied() -> None:
    tombstone = build_rotated_session().revoked(NOON)
    assert [judge(copy, NOON) for copy in tombstone.copies()] == [Deny(Reason.REVOKED)] * 2


def test_extension_never_shortens_the_lifetime() -> None:
    session = build_session()
    assert session.extended(NOON, NOON).expires_at == session.expires_at


def test_tombstone_is_fresher_than_any_other_copy() -> None:
    session = build_session()
    tombstone = session.revoked(NOON)
    ahead = session
    for _ in range(5):
        ahead = ahead.rotated(build_digest(), timedelta(0), at=NOON)
    assert tombstone.freshness > ahead.freshness


def test_only_expired_and_idle_verdicts_may_be_stale() -> None:
    possibly_stale = {reason for reason in Reason if may_be_stale(Deny(reason))}
    assert possibly_stale == {Reason.EXPIRED, Reason.IDLE}
    assert not may_be_stale(Allow(build_session()))


def judge_step_by_step(session: Session, now: datetime) -> Allow | Deny:
    """Judge by one explicit condition per reason."""
    idle = None if session.idle_timeout is None else session.last_seen_at + session.idle_timeout
    if session.revoked_at is not None:
        return Deny(Reason.REVOKED)
    if session.digest == session.previous_digest and now >= session.previous_until:
        return Deny(Reason.REUSED)
    if now >= session.expires_at:
        return Deny(Reason.EXPIRED)
    if idle is not None and now >= idle:
        return Deny(Reason.IDLE)
    return Allow(session)


seconds = st.integers(-3, 3).map(lambda number: timedelta(seconds=number))


@given(seconds, st.none() | st.integers(1, 5), seconds, st.booleans(), st.booleans(), seconds)
def test_valid_until_agrees_with_the_explicit_rules(
    ends: timedelta,
    idle: int | None,
    grace: timedelta,
    revoked: bool,
    rotated_out: bool,
    elapsed: timedelta,
) -> None:
    digest = build_digest()
    session = build_session(
        digest=digest,
        last_seen_at=NOON - timedelta(seconds=3),
        expires_at=NOON + ends,
        idle_timeout=None if idle is None else timedelta(seconds=idle),
        previous_digest=digest if rotated_out else build_digest(),
        previous_until=NOON + grace,
        revoked_at=NOON if revoked else None,
    )

    verdict = judge(session, NOON + elapsed)

    assert verdict == judge_step_by_step(session, NOON + elapsed)
    assert isinstance(verdict, Allow) == (NOON + elapsed < session.valid_until)


def test_repr_does_not_contain_digests() -> None:
    session = build_rotated_session()
    assert session.digest.hex() not in repr(session)
    assert repr(session.digest) not in repr(session)
    assert repr(session.previous_digest) not in repr(session)


@pytest.mark.parametrize(
    "ended",
    [
        build_session().revoked(NOON),
        build_session(expires_at=NOON + INSTANT),
        build_session(idle_timeout=INSTANT),
    ],
    ids=["revoked", "expired", "idle"],
)
def test_transition_of_an_ended_session_raises_session_ended(ended: Session) -> None:
    later = NOON + INSTANT
    for transition in transitions(ended, later):
        with pytest.raises(SessionEnded):
            transition()


class SessionLifecycle(RuleBasedStateMachine):
    """Any order of transitions: an end is never undone, and judge never allows an ended session."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOON
        self.session = build_session()
        self.ended = False

    @rule(seconds=st.integers(0, 3600))
    def advance_time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.ended = self.ended or self.session.has_ended(self.now)

    @precondition(lambda self: not self.ended)
    @rule()
    def touch(self) -> None:
        before = self.session
        self.session = before.touched(self.now)
        assert self.session.version == before.version

    @precondition(lambda self: not self.ended)
    @rule(seconds=st.integers(0, 300))
    def rotate(self, seconds: int) -> None:
        before = self.session
        self.session = before.rotated(build_digest(), timedelta(seconds=seconds), at=self.now)
        assert self.session.freshness > before.freshness

    @precondition(lambda self: not self.ended)
    @rule(hours=st.integers(0, 24))
    def extend(self, hours: int) -> None:
        self.session = self.session.extended(self.now + timedelta(hours=hours), self.now)

    @precondition(lambda self: not self.ended)
    @rule()
    def migrate(self) -> None:
        self.session = self.session.migrated(build_digest(), self.now)

    @precondition(lambda self: not self.ended)
    @rule()
    def revoke(self) -> None:
        self.session = self.session.revoked(self.now)
        self.ended = True

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def transitions_raise_session_ended(self, data: st.DataObject) -> None:
        transition = data.draw(st.sampled_from(transitions(self.session, self.now)))
        with pytest.raises(SessionEnded):
            transition()

    @invariant()
    def ended_session_is_denied_for_every_token(self) -> None:
        if self.ended:
            for copy in self.session.copies():
                assert isinstance(judge(copy, self.now), Deny)

    @invariant()
    def active_session_is_allowed(self) -> None:
        if not self.ended:
            assert judge(self.session, self.now) == Allow(self.session)


TestSessionLifecycle = SessionLifecycle.TestCase


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_has_ended_agrees_with_judge(elapsed: timedelta) -> None:
    session, now = build_session(), NOON + elapsed
    assert session.has_ended(now) is isinstance(judge(session, now), Deny)
