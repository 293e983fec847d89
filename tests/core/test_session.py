"""Transitions and the one validity rule, over every order of events."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidegate.core.errors import SessionEnded
from sidegate.core.judge import judge, may_have_moved
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.stores.codec import encode
from tests.contracts.values import a_digest, a_rotated_session, a_session
from tests.support.clock import NOON

A_MOMENT = timedelta(microseconds=1)


def transitions(session: Session, at: datetime) -> list[Callable[[], Session]]:
    """Return every transition there is, ready to be made."""
    return [
        lambda: session.touched(at),
        lambda: session.extended(at + timedelta(days=9), at),
        lambda: session.rotated(a_digest(), timedelta(seconds=300), at),
        lambda: session.migrated(a_digest(), at),
        lambda: session.revoked(at),
    ]


def test_a_living_session_is_allowed() -> None:
    session = a_session()
    assert judge(session, NOON) == Allow(session)


def test_the_absolute_deadline_is_the_first_moment_of_the_end() -> None:
    session = a_session(idle_timeout=None)
    assert isinstance(judge(session, session.expires_at - A_MOMENT), Allow)
    assert judge(session, session.expires_at) == Deny(Reason.EXPIRED)


def test_the_idle_deadline_is_the_first_moment_of_the_end() -> None:
    session = a_session()
    assert session.idle_timeout is not None
    idle_at = session.last_seen_at + session.idle_timeout
    assert isinstance(judge(session, idle_at - A_MOMENT), Allow)
    assert judge(session, idle_at) == Deny(Reason.IDLE)


def test_a_touch_slides_the_idle_deadline_but_not_the_absolute_one() -> None:
    session = a_session()
    for _ in range(100):
        later = session.last_seen_at + timedelta(minutes=29)
        if isinstance(judge(session, later), Deny):
            break
        session = session.touched(later)
    assert judge(session, session.expires_at) == Deny(Reason.EXPIRED)
    assert session.expires_at == NOON + timedelta(hours=12)


def test_a_touch_never_goes_back_in_time() -> None:
    session = a_session(last_seen_at=NOON + timedelta(minutes=5))
    assert session.touched(NOON).last_seen_at == NOON + timedelta(minutes=5)


def test_a_revocation_dated_tomorrow_ends_the_session_today() -> None:
    assert judge(a_session(revoked_at=NOON + timedelta(days=1)), NOON) == Deny(Reason.REVOKED)


def test_after_a_rotation_both_tokens_open_until_the_grace_ends() -> None:
    session = a_rotated_session()
    current, previous = session.copies()
    grace_end = NOON + timedelta(seconds=10)
    assert isinstance(judge(previous, grace_end - A_MOMENT), Allow)
    assert judge(previous, grace_end) == Deny(Reason.REUSED)
    assert isinstance(judge(current, grace_end), Allow)


def test_a_migrated_session_leaves_its_old_token_at_once() -> None:
    session = a_session().migrated(a_digest(), NOON)
    assert session.type is SessionType.SSO
    assert judge(session.copies()[1], NOON) == Deny(Reason.REUSED)


def test_every_copy_of_a_tombstone_is_refused() -> None:
    tombstone = a_rotated_session().revoked(NOON)
    assert [judge(copy, NOON) for copy in tombstone.copies()] == [Deny(Reason.REVOKED)] * 2


def test_an_extension_never_shortens_a_life() -> None:
    session = a_session()
    assert session.extended(NOON, NOON).expires_at == session.expires_at


def test_a_tombstone_is_fresher_than_anything_else_of_its_session() -> None:
    session = a_session()
    tombstone = session.revoked(NOON)
    ahead = session
    for _ in range(5):
        ahead = ahead.rotated(a_digest(), timedelta(0), NOON)
    assert tombstone.freshness > ahead.freshness


def test_only_the_passing_of_time_can_be_undone_by_a_newer_copy() -> None:
    movable = {reason for reason in Reason if may_have_moved(Deny(reason))}
    assert movable == {Reason.EXPIRED, Reason.IDLE}
    assert not may_have_moved(Allow(a_session()))


def the_rule(session: Session, now: datetime) -> Allow | Deny:
    """Judge as one would explain it: the reasons, one after the other."""
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
def test_until_when_a_copy_is_valid_says_the_same_as_the_reasons_why_not(
    ends: timedelta,
    idle: int | None,
    grace: timedelta,
    revoked: bool,
    rotated_out: bool,
    passed: timedelta,
) -> None:
    digest = a_digest()
    session = a_session(
        digest=digest,
        last_seen_at=NOON - timedelta(seconds=3),
        expires_at=NOON + ends,
        idle_timeout=None if idle is None else timedelta(seconds=idle),
        previous_digest=digest if rotated_out else a_digest(),
        previous_until=NOON + grace,
        revoked_at=NOON if revoked else None,
    )

    verdict = judge(session, NOON + passed)

    assert verdict == the_rule(session, NOON + passed)
    assert isinstance(verdict, Allow) == (NOON + passed < session.valid_until)


def test_what_is_noted_in_a_margin_is_no_part_of_the_session() -> None:
    session = a_session()
    as_it_was, shown = replace(session), repr(session)

    session.note_reply("for whoever reads this copy")
    session.note_verified("somebody")

    assert session.verified_by == "somebody"
    assert session.cached_reply == "for whoever reads this copy"
    assert (session, repr(session), encode(session)) == (as_it_was, shown, encode(as_it_was))
    assert hash(session) == hash(as_it_was)
    assert {change().cached_reply for change in transitions(session, NOON)} == {None}
    assert {change().verified_by for change in transitions(session, NOON)} == {None}


def test_the_digest_is_not_shown() -> None:
    session = a_rotated_session()
    assert session.digest.hex() not in repr(session)
    assert repr(session.digest) not in repr(session)
    assert repr(session.previous_digest) not in repr(session)


@pytest.mark.parametrize(
    "ended",
    [
        a_session().revoked(NOON),
        a_session(expires_at=NOON + A_MOMENT),
        a_session(idle_timeout=A_MOMENT),
    ],
    ids=["revoked", "expired", "idle"],
)
def test_an_ended_session_has_no_transitions(ended: Session) -> None:
    later = NOON + A_MOMENT
    for transition in transitions(ended, later):
        with pytest.raises(SessionEnded):
            transition()


class Life(RuleBasedStateMachine):
    """Any order of transitions: an end is never undone, and judge never allows an ended session."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOON
        self.session = a_session()
        self.dead: list[Session] = []  # copies that must never be allowed again
        self.over = False

    @rule(seconds=st.integers(0, 3600))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.over = self.over or self.session.ended(self.now)

    @precondition(lambda self: not self.over)
    @rule()
    def touch(self) -> None:
        before = self.session
        self.session = before.touched(self.now)
        assert self.session.version == before.version

    @precondition(lambda self: not self.over)
    @rule(seconds=st.integers(0, 300))
    def rotate(self, seconds: int) -> None:
        before = self.session
        self.session = before.rotated(a_digest(), timedelta(seconds=seconds), self.now)
        assert self.session.freshness > before.freshness

    @precondition(lambda self: not self.over)
    @rule(hours=st.integers(0, 24))
    def extend(self, hours: int) -> None:
        self.session = self.session.extended(self.now + timedelta(hours=hours), self.now)

    @precondition(lambda self: not self.over)
    @rule()
    def migrate(self) -> None:
        self.session = self.session.migrated(a_digest(), self.now)

    @precondition(lambda self: not self.over)
    @rule()
    def revoke(self) -> None:
        self.session = self.session.revoked(self.now)
        self.over = True

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def nothing_works_any_more(self, data: st.DataObject) -> None:
        transition = data.draw(st.sampled_from(transitions(self.session, self.now)))
        with pytest.raises(SessionEnded):
            transition()

    @invariant()
    def an_ended_session_is_allowed_by_no_token(self) -> None:
        if self.over:
            for copy in self.session.copies():
                assert isinstance(judge(copy, self.now), Deny)

    @invariant()
    def a_living_session_is_allowed_by_its_token(self) -> None:
        if not self.over:
            assert judge(self.session, self.now) == Allow(self.session)


TestLife = Life.TestCase


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_ended_and_judge_agree(passed: timedelta) -> None:
    session, now = a_session(), NOON + passed
    assert session.ended(now) is isinstance(judge(session, now), Deny)
