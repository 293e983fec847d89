"""When the link was lost under a change: make it again, and see what came of it the first time.

To look is not enough: the change may still be under way, and be made after we have looked. Whoever
makes it again waits for that one, and then finds it made or not.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sidegate.core.errors import LimitReached, OutcomeUnknown, SessionExists, StoreUnavailable
from sidegate.core.session import Session, SessionId, SessionRecord

_T = TypeVar("_T")

Get = Callable[[SessionId], Awaitable[SessionRecord | None]]


async def created(
    create: Callable[[], Awaitable[list[Session]]], get: Get, record: SessionRecord
) -> list[Session]:
    """Create `record`, and return the tombstones of those that had to end for it.

    None of them are told if it was the first time that did it: who asks for changes hears of them.
    """
    try:
        return await create()
    except OutcomeUnknown as unknown:
        with _still(unknown):
            try:
                return await create()
            except (SessionExists, LimitReached):
                if _is_stored(record, await get(record.session.id)):
                    return []
                raise


async def replaced(
    replace: Callable[[], Awaitable[list[Session] | None]], get: Get, record: SessionRecord
) -> list[Session] | None:
    """Replace by `record`, as `created` creates. None: somebody else has changed it before."""
    try:
        return await replace()
    except OutcomeUnknown as unknown:
        with _still(unknown):
            evicted = await replace()
            if evicted is None and _is_stored(record, await get(record.session.id)):
                return []
            return evicted


async def made(change: Callable[[], Awaitable[_T]]) -> _T:
    """Make a change that changes nothing when it is made again, and return what is said then."""
    try:
        return await change()
    except OutcomeUnknown as unknown:
        with _still(unknown):
            return await change()


def _is_stored(record: SessionRecord, stored: SessionRecord | None) -> bool:
    return stored is not None and _what_changed(stored) == _what_changed(record)


def _what_changed(record: SessionRecord) -> tuple[object, ...]:
    """Return what no two changes have in common; the rest a touch may have moved since."""
    session, details = record.session, record.details
    return session.version, session.digest, session.revoked_at, details.change


@contextmanager
def _still(unknown: OutcomeUnknown) -> Iterator[None]:
    """What was unknown stays so while the store is away."""
    try:
        yield
    except StoreUnavailable:
        raise unknown from None
