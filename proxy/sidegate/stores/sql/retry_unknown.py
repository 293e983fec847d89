"""Retries of a write whose outcome is unknown because the connection was lost.

Reading the record is not enough: the write may still be in progress, and commit after the read. The
retried write waits for it, and then finds it committed or rolled back.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sidegate.core.change_log import ChangedSession
from sidegate.core.errors import LimitReached, OutcomeUnknown, SessionExists, StoreUnavailable
from sidegate.core.session import SessionId, SessionRecord

_Result = TypeVar("_Result")

GetRecord = Callable[[SessionId], Awaitable[SessionRecord | None]]


async def retry_create(
    create: Callable[[], Awaitable[list[ChangedSession]]], get: GetRecord, *, record: SessionRecord
) -> list[ChangedSession]:
    """Create `record`, and return the sessions evicted for it.

    Return an empty list if the first attempt had succeeded: its evictions are found as changes.
    """
    try:
        return await create()
    except OutcomeUnknown as unknown:
        with _keep_unknown(unknown):
            try:
                return await create()
            except (SessionExists, LimitReached):
                if await _find_stored(record, get) is not None:
                    return []
                raise


async def retry_replace(
    replace: Callable[[], Awaitable[list[ChangedSession] | None]],
    get: GetRecord,
    *,
    record: SessionRecord,
) -> list[ChangedSession] | None:
    """Replace by `record`, and return it and the sessions evicted for it, or None.

    None: it was changed concurrently. If the first attempt had succeeded, return only the session
    as it is stored: its evictions and its rotated digests are found as changes.
    """
    try:
        return await replace()
    except OutcomeUnknown as unknown:
        with _keep_unknown(unknown):
            changed = await replace()
            if changed is None and (stored := await _find_stored(record, get)) is not None:
                return [ChangedSession(stored.session)]
            return changed


async def retry_idempotent(write: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run an idempotent write, and return the result of the last attempt."""
    try:
        return await write()
    except OutcomeUnknown as unknown:
        with _keep_unknown(unknown):
            return await write()


async def _find_stored(record: SessionRecord, get: GetRecord) -> SessionRecord | None:
    """Return the stored record if it is the change that `record` makes."""
    stored = await get(record.session.id)
    if stored is None or _identify_change(stored) != _identify_change(record):
        return None
    return stored


def _identify_change(record: SessionRecord) -> tuple[object, ...]:
    """Return values that identify a change; a touch may have altered the others since.

    The times are not among them: the database sets them when it has the locks.
    """
    session, change = record.session, record.details.change
    is_revoked = session.revoked_at is not None
    return session.version, session.digest, is_revoked, None if change is None else change.by


@contextmanager
def _keep_unknown(unknown: OutcomeUnknown) -> Iterator[None]:
    """Raise `unknown` again if the store is unavailable."""
    try:
        yield
    except StoreUnavailable:
        raise unknown from None
