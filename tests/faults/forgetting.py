"""Make Redis forget single copies, as an eviction does, so that a check has to go further."""

from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.faults.history import now
from tests.faults.population import Held

_PATIENCE: Final = 0.2
_FRESH: Final = 0.5


class Forgetting:
    """A client of its own, straight to Redis: whatever happens on the wires, it gets through.

    Sidegate's keys begin with a namespace that changes; which ones there are is learned anew now
    and then, because to look for it is to look at every key.
    """

    def __init__(self, port: int) -> None:
        self._redis = Redis(
            port=port,
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._namespaces: set[bytes] = set()
        self._stale_at = 0.0

    async def forget(self, held: Held) -> None:
        """Take every copy away. A Redis that does not answer is as good as one that forgot."""
        copy = held.copy.encode("ascii")
        with suppress(RedisError, OSError):
            if now() >= self._stale_at:
                self._stale_at = now() + _FRESH
                keys: list[Any] = await self._redis.keys(b"*" + copy)
                self._namespaces |= {bytes(key).removesuffix(copy) for key in keys}
            if self._namespaces:
                await self._redis.unlink(*(name + copy for name in self._namespaces))

    async def close(self) -> None:
        await self._redis.aclose()
