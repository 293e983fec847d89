"""Changes announced between instances by Redis pub/sub: fast, and allowed to lose messages."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from proxy.core.errors import StoreUnavailable, UnreadableRecord
from proxy.core.session import Session
from proxy.stores.codec import decode, encode
from proxy.stores.redis import NAME, RedisStore

CHANNEL: Final = "sidegate:v1:feed"

# Seconds between two attempts to subscribe.
_PAUSE: Final = 0.1


class RedisFeed:
    """Announces and hears changed sessions. What is lost is found by the catch-up."""

    def __init__(self, store: RedisStore, *, on_unreadable: Callable[[str], None]) -> None:
        self._store = store
        self._on_unreadable = on_unreadable

    async def announce(self, sessions: Iterable[Session]) -> None:
        """Tell every instance that listens now. StoreUnavailable: they were not told."""
        messages = [encode(session) for session in sessions]
        if messages:
            await self._store.publish(CHANNEL, messages)

    async def listen(
        self,
        *,
        heard: Callable[[Session], None],
        gap: Callable[[], None],
        up: Callable[[bool], None],
    ) -> NoReturn:
        """Call `heard` for each change, until cancelled. `up` is told when the feed comes and goes.

        `gap` is called at every subscription: what was announced before it was missed.
        """

        def read(message: bytes) -> None:
            try:
                heard(decode(message))
            except UnreadableRecord:
                self._on_unreadable(NAME)

        def subscribed() -> None:
            gap()
            up(True)

        while True:
            try:
                await self._store.follow(CHANNEL, subscribed=subscribed, heard=read)
            except StoreUnavailable:
                up(False)
                await asyncio.sleep(_PAUSE)
