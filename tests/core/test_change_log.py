"""Marks, and the copies of a changed session."""

from typing import Final
from uuid import uuid4

import pytest

from sidegate.core.change_log import ChangedSession, Mark
from sidegate.core.session import EPOCH
from sidegate.core.snapshot import Snapshot
from tests.contracts.values import build_digest, build_rotated_session, build_session
from tests.support.clock import NOON
from tests.support.replace import replace

MARK: Final = Mark(Snapshot(90, 100, frozenset({90, 95})), "1", uuid4())


@pytest.mark.parametrize(
    ("changed_xid", "is_covered"),
    [(1, True), (89, True), (90, False), (94, True), (95, False), (99, True), (100, False)],
)
def test_mark_covers_changes_that_its_snapshot_sees(changed_xid: int, is_covered: bool) -> None:
    assert MARK.covers(build_session(changed_xid=changed_xid)) is is_covered


def test_mark_does_not_cover_a_session_that_was_not_read_from_the_database() -> None:
    assert not MARK.covers(build_session())


def test_changed_session_has_a_copy_for_each_digest_and_the_current_one_first() -> None:
    session, oldest, older = build_rotated_session(), build_digest(), build_digest()
    copies = ChangedSession(session, (oldest, older)).copies()
    assert [copy.digest for copy in copies] == [
        session.digest,
        session.previous_digest,
        oldest,
        older,
    ]
    assert copies[:2] == session.copies()


def test_copies_for_rotated_digests_never_open() -> None:
    session = build_rotated_session()
    *_, copy = ChangedSession(session, (build_digest(),)).copies()
    assert copy.valid_until == EPOCH
    assert (copy.id, copy.freshness) == (session.id, session.freshness)


def test_copies_of_a_tombstone_are_tombstones() -> None:
    tombstone = build_rotated_session().revoked(NOON)
    copies = ChangedSession(tombstone, (build_digest(), build_digest())).copies()
    assert len(copies) == 4
    assert all(copy.revoked_at == NOON for copy in copies)


def test_copies_have_the_change_of_their_session() -> None:
    session = replace(build_rotated_session(), changed_xid=95)
    copies = ChangedSession(session, (build_digest(),)).copies()
    assert {copy.changed_xid for copy in copies} == {95}


def test_change_does_not_count_when_sessions_are_compared() -> None:
    session = build_session(changed_xid=1)
    assert session == replace(session, changed_xid=2)


def test_repr_contains_no_digest() -> None:
    session = build_rotated_session()
    digest = build_digest()
    text = repr(ChangedSession(session, (digest,)))
    assert not any(repr(each)[2:12] in text for each in (digest, session.digest))
