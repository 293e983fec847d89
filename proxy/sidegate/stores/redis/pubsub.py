"""Changes announced between instances by Redis pub/sub: fast, and allowed to lose messages."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.stores.codec import decode, encode
from sidegate.stores.heartbeat import Heartbeat
from sidegate.stores.redis.connection import NAME, RedisClient
from sidegate.stores.redis.pending_revocations import CHANNEL as PENDED

CHANNEL: Final = "sidegate:v1:feed"

# Seconds between two attempts to subscribe.
_PAUSE: Final = 0.1
# Seconds after which it is said again that nothing is heard.
_AGAIN: Final = 1.0


class RedisPubSub:
    """Announces and hears changed sessions. What is lost is found by the catch-up."""

    def __init__(
        self,
        server: RedisClient,
        *,
        clock: Clock,
        lag: Callable[[float], None],
        on_unreadable: Callable[[str], None],
    ) -> None:
        """`lag` is told how many seconds an announcement takes from here to here."""
        self._server = server
        self._heart = Heartbeat(NAME, clock=clock, lag=lag)
        self._on_unreadable = on_unreadable

    async def publish(self, sessions: Iterable[Session]) -> None:
        """Tell every instance that listens now. StoreUnavailable: they were not told."""
        messages = [encode(session) for session in sessions]
        if messages:
            await self._server.publish(CHANNEL, messages)

    async def listen(
        self,
        *,
        heard: Callable[[Session], None],
        gap: Callable[[], None],
        up: Callable[[bool], None],
        lost: Callable[[], None] = lambda: None,
        pended: Callable[[], None] = lambda: None,
    ) -> NoReturn:
        """Call `heard` for each change, until cancelled. `up` is told when the feed comes and goes;
        that it has fallen silent, within three seconds.

        `gap` is called at every subscription: what was announced before it was missed; `lost` when
        one ends, and again each second until there is another. `pended` is called when there are
        more pending revocations.
        """
        time = asyncio.get_running_loop().time
        told = time()
        while True:
            try:
                async with asyncio.TaskGroup() as both:
                    subscribed = asyncio.Event()
                    both.create_task(self._follow(heard, gap, pended, subscribed))
                    both.create_task(self._beat(up, lost, subscribed))
            except* StoreUnavailable:
                up(False)
            if time() - told >= _AGAIN:
                lost()
                told = time()
            await asyncio.sleep(_PAUSE)

    async def _follow(
        self,
        heard: Callable[[Session], None],
        gap: Callable[[], None],
        pended: Callable[[], None],
        subscribed: asyncio.Event,
    ) -> None:
        def read(message: bytes) -> None:
            try:
                if not self._heart.heard(message):
                    heard(decode(message))
            except UnreadableRecord:
                self._on_unreadable(NAME)

        def begun() -> None:
            gap()
            subscribed.set()

        told = {CHANNEL: read, PENDED: lambda _: pended()}
        await self._server.follow(told, subscribed=begun)

    async def _beat(
        self, up: Callable[[bool], None], lost: Callable[[], None], subscribed: asyncio.Event
    ) -> NoReturn:
        """Say each second whether what we announce is heard. StoreUnavailable: we hear nothing."""
        await subscribed.wait()
        up(True)
        try:
            while True:
                up(await self._hears_itself())
                await self._heart.rest()
        finally:
            lost()  # at once, whichever of the two tasks has failed

    async def _hears_itself(self) -> bool:
        announced = False
        with suppress(StoreUnavailable):  # others do not hear us, but we may hear them
            await self._server.publish(CHANNEL, [self._heart.beat()])
            announced = True
        if announced:
            await self._heart.echo()
        return announced
