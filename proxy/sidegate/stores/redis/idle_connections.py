"""Close connections to Redis that nobody has used for a while: the vendor's pool never shrinks."""

from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from redis.asyncio.connection import AbstractConnection

# Looking more often would find no more worth closing.
_LOOKS: Final = 30


class IdleConnections:
    """Knows since when each connection lies in its pool.

    A closed one stays there, and connects again when it is borrowed. A pool lends the one that came
    back last, so after a rush those that it took are the ones that nobody uses.
    """

    def __init__(self, seconds: float, *, monotonic: Callable[[], float]) -> None:
        """Close what has not been used for so many `seconds`."""
        self._seconds = seconds
        self._monotonic = monotonic
        self._since: WeakKeyDictionary[AbstractConnection, float] = WeakKeyDictionary()
        self._next_look = 0.0

    def borrowed(self, connection: AbstractConnection) -> None:
        self._since.pop(connection, None)

    async def given_back(self, connection: AbstractConnection) -> None:
        """Note that it is idle from now on, and now and then close those that are for long."""
        now = self._monotonic()
        self._since[connection] = now
        if now < self._next_look:
            return
        self._next_look = now + self._seconds / _LOOKS
        for other, since in tuple(self._since.items()):
            if other is not connection and now - since >= self._seconds:
                self._since.pop(other, None)
                await other.disconnect(nowait=True)
