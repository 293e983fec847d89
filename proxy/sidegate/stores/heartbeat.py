"""Heartbeats on a pub/sub channel: measure its delay, and detect that it delivers nothing."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.timeouts import with_timeout

# Seconds between two heartbeats, and until one counts as lost. So a channel that has stopped
# delivering is detected within three seconds.
HEARTBEAT_INTERVAL: Final = 1.0
HEARTBEAT_TIMEOUT: Final = 2.0

_PREFIX: Final = b"beat "


class Heartbeat:
    """The heartbeats of one instance on a channel that all instances share."""

    def __init__(
        self,
        store: str,
        *,
        clock: Clock,
        on_lag: Callable[[float], None],
        interval: float = HEARTBEAT_INTERVAL,
    ) -> None:
        """`on_lag` receives the seconds from sending each heartbeat to receiving it."""
        self._interval = interval
        self._store = store
        self._monotonic = clock.monotonic
        self._on_lag = on_lag
        self._instance_id = secrets.token_hex(8).encode()
        self._count = 0
        self._sent_at = 0.0
        self._echo = asyncio.Event()

    def next_message(self) -> bytes:
        """Return the heartbeat to send now."""
        self._count += 1
        self._echo.clear()
        self._sent_at = self._monotonic()
        return self._message

    def receive(self, message: bytes) -> bool:
        """Return whether `message` is a heartbeat, of this or another instance."""
        if message == self._message and not self._echo.is_set():
            self._on_lag(self._monotonic() - self._sent_at)
            self._echo.set()
        return message.startswith(_PREFIX)

    async def wait_for_echo(self) -> None:
        """Return when the last heartbeat has come back. Raise StoreUnavailable if it does not."""
        await with_timeout(self._echo.wait(), HEARTBEAT_TIMEOUT, store=self._store)

    async def wait_for_next(self) -> None:
        """Return when the next heartbeat is due.

        Raise StoreUnavailable if it is long overdue: this process was paused, and may have missed
        messages.
        """
        await asyncio.sleep(self._interval)
        if self._monotonic() - self._sent_at > self._interval + HEARTBEAT_TIMEOUT:
            raise StoreUnavailable(self._store, "this process was paused")

    @property
    def _message(self) -> bytes:
        return b"%s%s %d" % (_PREFIX, self._instance_id, self._count)
