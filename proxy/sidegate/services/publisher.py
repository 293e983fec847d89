"""Publish committed changes to caches and the feed.

A failure here does not undo the change, and loses nothing: every change is in the change log.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from sidegate.core.change_log import ChangedSession, list_copies
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import CacheTrust, Feed, RemoteCache, SessionCache
from sidegate.core.session import Session


class SessionEvents(Protocol):
    """Counters of created and ended sessions. A cause is one of a few fixed words."""

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...


class NullFeed:
    """A feed without subscribers: for a single instance, or change polling alone."""

    async def publish(self, copies: Iterable[Session]) -> None:
        """Do nothing."""


async def put_changes(changes: Sequence[ChangedSession], memory: SessionCache) -> None:
    """Put a copy of each changed session under each of its digests."""
    for copy in list_copies(changes):
        await memory.put(copy)


class ChangePublisher:
    """Publishes committed changes to memory, the remote cache and the feed, and counts them."""

    def __init__(
        self,
        memory: SessionCache,
        *,
        remote: RemoteCache | None,
        trust: CacheTrust,
        feed: Feed,
        events: SessionEvents,
    ) -> None:
        """`memory` is this process's. `trust` is that in `remote`, if there is one.

        A remote cache that did not take what a change restricts is not trusted until the cache
        follower has brought it forward.
        """
        self._memory = memory
        self._remote = remote
        self._trust = trust
        self._feed = feed
        self._events = events

    async def publish_created(self, session: Session) -> None:
        """Count a new session and put it into memory. Other instances find it when asked."""
        self._events.created(session)
        await self._memory.put(session)

    async def publish_ended(self, changes: Sequence[ChangedSession], *, cause: str) -> None:
        """Count and publish the end of these sessions."""
        for change in changes:
            self._events.ended(change.session, cause)
        await self.publish(changes)

    async def publish(self, changes: Sequence[ChangedSession]) -> None:
        """Update memory; then the feed and the remote cache in parallel."""
        if not changes:
            return
        await put_changes(changes, self._memory)
        await asyncio.gather(self._restrict_remote(changes), self._publish_to_feed(changes))

    async def _restrict_remote(self, changes: Sequence[ChangedSession]) -> None:
        if self._remote is None:
            return
        is_applied = False
        self._trust.record_changes(list_copies(changes))
        with suppress(StoreUnavailable):
            is_applied = await self._remote.restrict(changes)
        if not is_applied:
            self._trust.invalidate("undelivered")

    async def _publish_to_feed(self, changes: Sequence[ChangedSession]) -> None:
        with suppress(StoreUnavailable):  # the other instances' change pollers find it
            await self._feed.publish(list_copies(changes))
