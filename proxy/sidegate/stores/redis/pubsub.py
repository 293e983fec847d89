"""Change notifications between instances by Redis pub/sub: fast, but messages may be lost."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.outage import Outage
from sidegate.core.session import Session
from sidegate.stores.codec import decode, encode
from sidegate.stores.heartbeat import Heartbeat
from sidegate.stores.redis.connection import STORE_NAME, RedisClient
from sidegate.stores.redis.pending_revocations import CHANNEL as PENDING_CHANNEL

CHANNEL: Final = "sidegate:v1:feed"

# Seconds between two attempts to subscribe.
_RECONNECT_DELAY: Final = 0.1

_log: Final = logging.getLogger("sidegate.pubsub")


class RedisPubSub:
    """Publishes copies of changed sessions, and receives those of all instances.

    The change poller finds what was lost.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        clock: Clock,
        on_lag: Callable[[float], None],
        on_unreadable: Callable[[str], None],
    ) -> None:
        """`on_lag` receives the seconds that a message takes back to this instance.

        `on_unreadable` receives the store's name for each message that cannot be decoded.
        """
        self._client = client
        self._heartbeat = Heartbeat(STORE_NAME, clock=clock, on_lag=on_lag)
        self._on_unreadable = on_unreadable
        self._outage = Outage(clock=clock, on_start=_log_disconnected, on_end=_log_connected)

    async def publish(self, copies: Iterable[Session]) -> None:
        """Send the copies to all instances that are subscribed now.

        Raise StoreUnavailable if they were not sent.
        """
        messages = [encode(copy) for copy in copies]
        if messages:
            await self._client.publish(CHANNEL, messages)

    async def listen(
        self,
        *,
        on_change: Callable[[Session], None],
        on_gap: Callable[[], None],
        on_status: Callable[[bool], None],
        on_pending: Callable[[], None] = lambda: None,
    ) -> NoReturn:
        """Call `on_change` for each copy of a changed session, until cancelled.

        `on_status` receives whether the feed works, within three seconds of a failure. `on_gap` is
        called at every subscription: earlier messages were missed. `on_pending` is called when
        there are new pending revocations.
        """
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    subscribed = asyncio.Event()
                    tasks.create_task(
                        self._receive(
                            on_change, on_gap, on_pending=on_pending, subscribed=subscribed
                        )
                    )
                    tasks.create_task(self._send_heartbeats(on_status, subscribed=subscribed))
            except* StoreUnavailable as outages:
                self._outage.record_failure(outages.exceptions[0])
                on_status(False)
            await asyncio.sleep(_RECONNECT_DELAY)

    async def _receive(
        self,
        on_change: Callable[[Session], None],
        on_gap: Callable[[], None],
        *,
        on_pending: Callable[[], None],
        subscribed: asyncio.Event,
    ) -> None:
        def on_message(message: bytes) -> None:
            try:
                if not self._heartbeat.receive(message):
                    on_change(decode(message))
            except UnreadableRecord:
                self._on_unreadable(STORE_NAME)

        def on_subscribed() -> None:
            on_gap()
            subscribed.set()

        callbacks = {CHANNEL: on_message, PENDING_CHANNEL: lambda _: on_pending()}
        await self._client.subscribe(callbacks, on_subscribed=on_subscribed)

    async def _send_heartbeats(
        self, on_status: Callable[[bool], None], *, subscribed: asyncio.Event
    ) -> NoReturn:
        """Report each second whether publishing works.

        Raise StoreUnavailable if a published heartbeat is not received.
        """
        await subscribed.wait()
        on_status(True)
        while True:
            on_status(await self._send_heartbeat())
            await self._heartbeat.wait_for_next()

    async def _send_heartbeat(self) -> bool:
        """Return whether a heartbeat could be published; then it has been received, too."""
        try:
            await self._client.publish(CHANNEL, [self._heartbeat.next_message()])
        except StoreUnavailable as error:  # receiving may still work
            self._outage.record_failure(error)
            return False
        await self._heartbeat.wait_for_echo()
        self._outage.record_success()
        return True


def _log_disconnected(reason: str) -> None:
    _log.warning("pubsub disconnected", extra={"reason": reason})


def _log_connected(seconds: float) -> None:
    _log.info("pubsub connected", extra={"outage_seconds": round(seconds, 1)})
