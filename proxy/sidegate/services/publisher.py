"""Publish committed changes to caches and the feed.

A failure here does not undo the change.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import Feed, SessionCache
from sidegate.core.session import Session

# Copies in one round trip: more at once would queue behind each other within one store deadline.
_BATCH_SIZE: Final = 64


async def put_copies(sessions: Sequence[Session], caches: Sequence[SessionCache]) -> bool:
    """Put all copies of each session into each cache; return whether all succeeded."""
    stored = [await _put_all(sessions, cache) for cache in caches]
    return all(stored)


async def publish(
    changed: Sequence[Session],
    caches: Sequence[SessionCache],
    feed: Feed,
    redeliver_later: Callable[[Sequence[Session]], None],
) -> None:
    """Update memory, `caches[0]`; then the feed and the other caches in parallel.

    A cache that is unavailable keeps its old copies, and may return them when it is back: call
    `redeliver_later` with what it missed.
    """
    if not changed:
        return
    memory, remote = caches[:1], caches[1:]
    await put_copies(changed, memory)
    delivered, _ = await asyncio.gather(
        put_copies(changed, remote), _publish_to_feed(changed, feed)
    )
    if not delivered:
        redeliver_later(changed)


async def _publish_to_feed(changed: Sequence[Session], feed: Feed) -> None:
    with suppress(StoreUnavailable):  # the other instances' change pollers find it
        await feed.publish(changed)


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


def ignore_undelivered(_: Sequence[Session]) -> None:
    """Do nothing: where memory is the only cache, none can miss a change."""
