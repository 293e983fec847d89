"""Publish committed changes to caches and the feed.

A failure here does not undo the change.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import Feed, SessionCache
from sidegate.core.session import Session

# Copies in one round trip: more at once would queue behind each other within one store deadline.
_BATCH_SIZE: Final = 64


class SessionEvents(Protocol):
    """Counters of created and ended sessions. A cause is one of a few fixed words."""

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...


async def put_copies(sessions: Sequence[Session], caches: Sequence[SessionCache]) -> bool:
    """Put all copies of each session into each cache; return whether all succeeded."""
    stored = [await _put_all(sessions, cache) for cache in caches]
    return all(stored)


async def _put_all(sessions: Sequence[Session], cache: SessionCache) -> bool:
    copies = [copy for session in sessions for copy in session.copies()]
    try:
        for start in range(0, len(copies), _BATCH_SIZE):
            # Concurrently: a cache may send all puts of one event loop tick in one round trip.
            await asyncio.gather(*map(cache.put, copies[start : start + _BATCH_SIZE]))
    except StoreUnavailable:
        return False
    return True


class NullFeed:
    """A feed without subscribers: for a single instance, or change polling alone."""

    async def publish(self, sessions: Iterable[Session]) -> None:
        """Do nothing."""


def _ignore_undelivered(_: Sequence[Session]) -> None:
    """Do nothing: where memory is the only cache, none can miss a change."""


class ChangePublisher:
    """Publishes committed changes to memory, the remote caches and the feed, and counts them."""

    def __init__(
        self,
        caches: Sequence[SessionCache],
        *,
        feed: Feed,
        events: SessionEvents,
        redeliver_later: Callable[[Sequence[Session]], None] = _ignore_undelivered,
    ) -> None:
        """`caches` begins with this process's memory; the others are remote.

        A cache that is unavailable keeps its old copies, and may return them when it is back: call
        `redeliver_later` with the changes that it missed.
        """
        self._caches = caches
        self._feed = feed
        self._events = events
        self._redeliver_later = redeliver_later

    async def publish_created(self, session: Session) -> None:
        """Count a new session and put it into the caches. Other instances find it when asked."""
        self._events.created(session)
        await put_copies([session], self._caches)

    async def publish_touched(self, sessions: Sequence[Session]) -> None:
        """Put touched sessions into the caches. Other instances find them when asked."""
        await put_copies(sessions, self._caches)

    async def publish_ended(self, tombstones: Sequence[Session], *, cause: str) -> None:
        """Count and publish the end of these sessions."""
        for tombstone in tombstones:
            self._events.ended(tombstone, cause)
        await self.publish(tombstones)

    async def publish(self, changed: Sequence[Session]) -> None:
        """Update memory; then the feed and the remote caches in parallel."""
        if not changed:
            return
        memory, remote = self._caches[:1], self._caches[1:]
        await put_copies(changed, memory)
        delivered, _ = await asyncio.gather(
            put_copies(changed, remote), self._publish_to_feed(changed)
        )
        if not delivered:
            self._redeliver_later(changed)

    async def _publish_to_feed(self, changed: Sequence[Session]) -> None:
        with suppress(StoreUnavailable):  # the other instances' change pollers find it
            await self._feed.publish(changed)
