"""The word outward, after the truth was told: nothing here can fail what has been acknowledged."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import Feed, SessionCache
from sidegate.core.session import Session

# One round trip's worth: more at once would wait for each other within one store's deadline.
_AT_ONCE: Final = 64


async def put_copies(sessions: Sequence[Session], hot: Sequence[SessionCache]) -> bool:
    """Put every copy of each session into every hot store; say whether all of them took all."""
    taken = [await _taken(sessions, store) for store in hot]
    return all(taken)


async def publish(
    changed: Sequence[Session],
    hot: Sequence[SessionCache],
    feed: Feed,
    owe: Callable[[Sequence[Session]], None],
) -> None:
    """Tell our own memory, then the other instances and the hot stores beyond.

    A hot store that cannot be told keeps what it had, and may answer with it when it is back:
    `owe` is told what it has missed.
    """
    if not changed:
        return
    near, far = hot[:1], hot[1:]
    await put_copies(changed, near)
    taken, _ = await asyncio.gather(put_copies(changed, far), _announced(changed, feed))
    if not taken:
        owe(changed)


async def _announced(changed: Sequence[Session], feed: Feed) -> None:
    with suppress(StoreUnavailable):  # the catch-up of the other instances finds it
        await feed.publish(changed)


async def _taken(sessions: Sequence[Session], store: SessionCache) -> bool:
    copies = [copy for session in sessions for copy in session.copies()]
    try:
        for start in range(0, len(copies), _AT_ONCE):
            # Together: a store may take what is put in one tick in one round trip.
            await asyncio.gather(*map(store.put, copies[start : start + _AT_ONCE]))
    except StoreUnavailable:
        return False
    return True


class NullFeed:
    """A feed without listeners: the only instance, or one that relies on the catch-up."""

    async def publish(self, sessions: Iterable[Session]) -> None:
        """Tell nobody."""


def ignore_undelivered(_: Sequence[Session]) -> None:
    """Where no store lies beyond our memory, none can miss anything."""
