"""Change log rows: the SQL and the conversions that Postgres and SQLite share."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from sidegate.core.change_log import ChangeCursor, ChangedSession, ChangePage, Mark
from sidegate.core.digest import Digest
from sidegate.core.errors import PositionLost, TooManyChanges, UnreadableRecord
from sidegate.core.session import EPOCH, Session, SessionId
from sidegate.core.snapshot import Snapshot
from sidegate.stores.sql.rows import (
    Row,
    decode_digest,
    decode_session,
    decode_timestamp,
    is_canonical,
    log_skipped,
)

RESTORED_REASON: Final = "restored"
"""The revocation reason of sessions whose revocation was lost by a restore."""

MAX_MARKS: Final = 10_000
"""How many marks are kept."""

MAX_CHANGES: Final = 20_000
"""How many changes are listed. With more of them it is quicker to begin with empty caches."""

SELECT_KEPT_MARKS: Final = (
    "SELECT (SELECT snapshot FROM cache_marks ORDER BY number LIMIT 1) AS oldest,"
    " (SELECT max(at) FROM cache_marks WHERE at <= {0}) AS last_at"
)
"""The snapshot of the oldest mark, and the time of the last one made by {0}."""

# The clock of a standby that was promoted may be behind.
_CLOCK_MARGIN: Final = timedelta(seconds=5)
_TIME_ORDERED: Final = 7
_BATCH_SIZE: Final = 500


def decode_changed(row: Row) -> ChangedSession:
    """Decode a changed session. Raise UnreadableRecord if the row contains none."""
    session = decode_session(row)
    try:
        return ChangedSession(session, tuple(_decode_rotated_digests(row)))
    except (TypeError, ValueError) as error:
        raise UnreadableRecord(f"row of session {row['id']}: {type(error).__name__}") from None


def decode_readable_changes(rows: Iterable[Row]) -> list[ChangedSession]:
    """Return the changed sessions of all readable rows, and log the others."""
    changes, _ = _decode_changes(rows)
    return changes


def decode_position(row: Row) -> Mark:
    """Decode the present position."""
    return Mark(Snapshot.parse(row["snapshot"]), row["system"])


def decode_mark(row: Row, *, id_: UUID | str) -> Mark:
    """Decode the present position, which was stored with this id."""
    return replace(decode_position(row), id=UUID(str(id_)))


def decode_page(rows: Sequence[Row], *, remaining: ChangeCursor | None) -> ChangePage:
    """Decode a page of changes, which `remaining` continues. A single row may have no session."""
    changes, unreadable = _decode_changes(row for row in rows if row["id"] is not None)
    return ChangePage(
        decode_position(rows[0]),
        has_changed=bool(rows[0]["has_changed"]),
        changes=changes,
        unreadable=unreadable,
        next=remaining,
    )


def is_full(rows: Sequence[Row], limit: int) -> bool:
    """Return whether a page has as many changes as it may have."""
    return len(rows) >= limit and rows[0]["id"] is not None


def find_remaining(changed: Sequence[Row], listed: Sequence[Row]) -> ChangeCursor | None:
    """Return the cursor for the changed sessions that are not listed yet; None: there are none.

    Raise TooManyChanges if more than MAX_CHANGES have changed.
    """
    if len(changed) > MAX_CHANGES:
        raise TooManyChanges(f"more than {MAX_CHANGES} changes")
    known = {row["id"] for row in listed}
    ids = (row["id"] for row in changed if row["id"] not in known)
    return _build_cursor(tuple(SessionId(str(id_)) for id_ in ids))


def split_cursor(cursor: ChangeCursor, limit: int) -> tuple[list[SessionId], ChangeCursor | None]:
    """Return the ids of the next page, and the cursor for the rest; None: there is no more."""
    return list(cursor.ids[:limit]), _build_cursor(cursor.ids[limit:])


def is_lost(since: Mark, row: Row) -> bool:
    """Return whether the changes since a mark cannot be listed, by a row of its page."""
    position = decode_position(row)
    return (
        since.system != position.system
        or position.snapshot.xmax < since.snapshot.xmax
        or (since.id is not None and not row["is_marked"])
    )


def compute_survivors_end(since: Mark) -> datetime:
    """Return the time until which other marks were made that were not lost with `since`.

    Those made after a restore are later. The maximum if the mark does not tell its time.
    """
    if since.id is None or since.id.version != _TIME_ORDERED:
        return datetime.max.replace(tzinfo=UTC)
    try:
        return EPOCH + timedelta(milliseconds=since.id.int >> 80) - _CLOCK_MARGIN
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def build_position_lost(since: Mark, position: Mark, *, kept: Row) -> PositionLost:
    """Return the error for a lost mark. `kept` is a row of SELECT_KEPT_MARKS."""
    if since.system != position.system:
        return PositionLost("the mark is of another database")
    if position.snapshot.xmax >= since.snapshot.xmax and _is_too_old(since, kept["oldest"]):
        return PositionLost("the mark is older than those kept")
    last_at = EPOCH if kept["last_at"] is None else decode_timestamp(kept["last_at"])
    return PositionLost("the database has lost changes", restored_since=last_at)


def select_tombstones(sessions: Iterable[Session]) -> Iterator[list[Session]]:
    """Yield the tombstones, each session once and in the order of their ids, in batches."""
    tombstones = {
        session.id: session
        for session in sessions
        if session.revoked_at is not None and is_canonical(session.id)
    }
    ordered = [tombstones[id_] for id_ in sorted(tombstones)]
    for start in range(0, len(ordered), _BATCH_SIZE):
        yield ordered[start : start + _BATCH_SIZE]


def _build_cursor(ids: tuple[SessionId, ...]) -> ChangeCursor | None:
    return ChangeCursor(ids) if ids else None


def _is_too_old(since: Mark, oldest: str | None) -> bool:
    return oldest is not None and since.snapshot.xmax < Snapshot.parse(oldest).xmax


def _decode_changes(rows: Iterable[Row]) -> tuple[list[ChangedSession], list[Digest]]:
    """Return the changed sessions, and the digests of those that cannot be decoded."""
    changes, unreadable = list[ChangedSession](), list[Digest]()
    for row in rows:
        try:
            changes.append(decode_changed(row))
        except UnreadableRecord as error:
            log_skipped(error)
            unreadable += _decode_readable_digests(row)
    return changes, unreadable


def _decode_rotated_digests(row: Row) -> list[Digest]:
    return [decode_digest(value) for value in _list_rotated_digests(row)]


def _list_rotated_digests(row: Row) -> Sequence[bytes]:
    value: Sequence[bytes] | str = row["rotated_digests"]
    return [bytes.fromhex(each) for each in json.loads(value)] if isinstance(value, str) else value


def _decode_readable_digests(row: Row) -> Iterator[Digest]:
    """Yield all digests of a session, without those that cannot be decoded."""
    for value in (row["digest"], row["previous_digest"], *_list_rotated_digests(row)):
        with suppress(TypeError, ValueError):
            yield decode_digest(value)
