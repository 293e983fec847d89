"""Builders of the values in contract tests: each call returns a different value by default."""

import secrets
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
    build_report,
)
from sidegate.core.digest import Digest
from sidegate.core.durations import Durations
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from tests.support.clock import NOON
from tests.support.replace import replace

TESTER = Actor("tests")


def build_digest() -> Digest:
    return Digest(secrets.token_bytes(32))


def build_session_id() -> SessionId:
    return SessionId(str(uuid7()))


def build_session(*, at: datetime = NOON, **changes: Any) -> Session:
    """Return a new active web session that was created `at`."""
    session = Session(
        id=build_session_id(),
        digest=build_digest(),
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


def build_record(session: Session | None = None, **details: Any) -> SessionRecord:
    """Return a record of `session`, or of a new one, with the details given."""
    return SessionRecord(session or build_session(), SessionDetails(**details))


def build_rotated_session(*, at: datetime = NOON, **changes: Any) -> Session:
    """Return a session whose token was rotated `at`: two digests lead to it."""
    return build_session(at=at, **changes).rotated(build_digest(), timedelta(seconds=10), at=at)


def build_tombstone(*, at: datetime = NOON, **changes: Any) -> Session:
    return build_session(at=at, **changes).revoked(at)


def build_sample_report(*, at: datetime = NOON) -> Report:
    """Return a report with one event of each kind since the first sample, a minute before `at`."""
    first = Sample(at - timedelta(minutes=1), ActiveSessions(), Totals())
    active = ActiveSessions(dict.fromkeys(SessionType, 2), users=3)
    ended = {(SessionType.WEB, cause): 1 for cause in Cause}
    totals = Totals(dict.fromkeys(SessionType, 1), ended, Durations({77: len(ended)}, 7_000_000))
    window = Window(first, Peak(active.total, at))
    return build_report(Sample(at, active, totals), dict.fromkeys(WINDOWS, window))
