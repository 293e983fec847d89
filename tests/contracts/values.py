"""Build the values that contract tests need: any two differ unless told otherwise."""

import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from uuid_utils import uuid7

from sidegate.core.actor import Actor
from sidegate.core.analytics import (
    WINDOWS,
    ActiveSessions,
    Cause,
    Peak,
    Report,
    Sample,
    Totals,
    Window,
    report,
)
from sidegate.core.durations import Durations
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest
from tests.support.clock import NOON

TESTER = Actor("tests")


def a_digest() -> Digest:
    return Digest(secrets.token_bytes(32))


def an_id() -> SessionId:
    return SessionId(str(uuid7()))


def a_session(*, at: datetime = NOON, **changes: Any) -> Session:
    """Return a living web session, begun `at`, that nobody has seen before."""
    session = Session(
        id=an_id(),
        digest=a_digest(),
        user_id="ada",
        type=SessionType.WEB,
        scopes=("read", "write"),
        created_at=at,
        authenticated_at=at,
        last_seen_at=at,
        expires_at=at + timedelta(hours=12),
        idle_timeout=timedelta(minutes=30),
    )
    return replace(session, **changes)


def a_record(session: Session | None = None, **details: Any) -> SessionRecord:
    """Return a record of `session`, or of a new one, with the details given."""
    return SessionRecord(session or a_session(), SessionDetails(**details))


def a_rotated_session(*, at: datetime = NOON, **changes: Any) -> Session:
    """Return a session whose token was changed `at`: two digests lead to it."""
    return a_session(at=at, **changes).rotated(a_digest(), timedelta(seconds=10), at)


def a_tombstone(*, at: datetime = NOON, **changes: Any) -> Session:
    return a_session(at=at, **changes).revoked(at)


def a_report(*, at: datetime = NOON) -> Report:
    """Return a report in which everything happened once since the first sample, a minute ago."""
    first = Sample(at - timedelta(minutes=1), ActiveSessions(), Totals())
    living = ActiveSessions(dict.fromkeys(SessionType, 2), users=3)
    ended = {(SessionType.WEB, cause): 1 for cause in Cause}
    totals = Totals(dict.fromkeys(SessionType, 1), ended, Durations({77: len(ended)}, 7_000_000))
    window = Window(first, Peak(living.total, at))
    return report(Sample(at, living, totals), dict.fromkeys(WINDOWS, window))
