"""Close idle connections to Redis, since the client library's pool never shrinks."""

from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from redis.asyncio.connection import AbstractConnection

# Scans for idle connections within `max_idle` seconds.
_SCANS_PER_MAX_IDLE: Final = 30


class IdleConnections:
    """The time since when each connection of a pool is idle.

    A closed connection stays in the pool, and connects again when it is borrowed. A pool lends the
    connection that was released last, so after a load peak the surplus ones stay idle.
    """

    def __init__(self, max_idle: float, *, monotonic: Callable[[], float]) -> None:
        """Close connections that have been idle for `max_idle` seconds."""
        self._max_idle = max_idle
        self._monotonic = monotonic
        self._idle_since: WeakKeyDictionary[AbstractConnection, float] = WeakKeyDictionary()
        self._next_scan = 0.0

    def mark_borrowed(self, connection: AbstractConnection) -> None:
        self._idle_since.pop(connection, None)

    async def mark_released(self, connection: AbstractConnection) -> None:
        """Record that a connection is idle from now on, and close those idle for too long."""
        now = self._monotonic()
        self._idle_since[connection] = now
        if now < self._next_scan:
            return
        self._next_scan = now + self._max_idle / _SCANS_PER_MAX_IDLE
        for other, since in tuple(self._idle_since.items()):
            if other is not connection and now - since >= self._max_idle:
                self._idle_since.pop(other, None)
                await other.disconnect(nowait=True)
