"""Retries of a write whose outcome is unknown because the connection was lost.

Reading the record is not enough: the write may still be in progress, and commit after the read. The
retried write waits for it, and then finds it committed or rolled back.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sidegate.core.errors import LimitReached, OutcomeUnknown, SessionExists, StoreUnavailable
from sidegate.core.session import Session, SessionId, SessionRecord

_Result = TypeVar("_Result")

GetRecord = Callable[[SessionId], Awaitable[SessionRecord | None]]


async def retry_create(
    create: Callable[[], Awaitable[list[Session]]], get: GetRecord, *, record: SessionRecord
) -> list[Session]:
    """Create `record`, and return the tombstones of the sessions it evicted.

    Return an empty list if the first attempt had succeeded: its evictions are found as changes.
    """
    try:
        return await create()
    except OutcomeUnknown as unknown:
        with _keep_unknown(unknown):
            try:
                return await create()
            except (SessionExists, LimitReached):
                if _is_stored(record, await get(record.session.id)):
                    return []
                raise


async def retry_replace(
    replace: Callable[[], Awaitable[list[Session] | None]], get: GetRecord, *, record: SessionRecord
) -> list[Session] | None:
    """Replace by `record`, as `retry_create` creates; None if it was changed concurrently."""
    try:
        return await replace()
    except OutcomeUnknown as unknown:
        with _keep_unknown(unknown):
            evicted = await replace()
            if evicted is None and _is_stored(record, await get(record.session.id)):
                return []
            return evicted


async def retry_idempotent(write: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run an idempotent write, and return the result of the last attempt."""
    try:
        return await write()
    except OutcomeUnknown as unknown:
        with _keep_unknown(unknown):
            return await write()


def _is_stored(record: SessionRecord, stored: SessionRecord | None) -> bool:
    return stored is not None and _identify_change(stored) == _identify_change(record)


def _identify_change(record: SessionRecord) -> tuple[object, ...]:
    """Return values that identify a change; a touch may have altered the others since."""
    session, details = record.session, record.details
    return session.version, session.digest, session.revoked_at, details.change


@contextmanager
def _keep_unknown(unknown: OutcomeUnknown) -> Iterator[None]:
    """Raise `unknown` again if the store is unavailable."""
    try:
        yield
    except StoreUnavailable:
        raise unknown from None
