"""Evict single cache entries from Redis, so that a check goes to the database."""

from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.faults.history import now
from tests.faults.population import ClientToken

_TIMEOUT: Final = 0.2
_NAMESPACE_MAX_AGE: Final = 0.5


class RedisEviction:
    """A Redis client that bypasses the proxies, and so is not affected by their faults.

    Sidegate's keys start with a namespace that changes. Finding the namespaces is a scan of all
    keys, so they are cached for half a second.
    """

    def __init__(self, port: int) -> None:
        self._redis = Redis(
            port=port,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._namespaces: set[bytes] = set()
        self._refresh_at = 0.0

    async def evict(self, token: ClientToken) -> None:
        """Delete every cached copy. Errors are ignored: an unreachable Redis serves no copy."""
        suffix = token.redis_key_suffix.encode("ascii")
        with suppress(RedisError, OSError):
            if now() >= self._refresh_at:
                self._refresh_at = now() + _NAMESPACE_MAX_AGE
                keys: list[Any] = await self._redis.keys(b"*" + suffix)
                self._namespaces |= {bytes(key).removesuffix(suffix) for key in keys}
            if self._namespaces:
                await self._redis.unlink(*(name + suffix for name in self._namespaces))

    async def close(self) -> None:
        await self._redis.aclose()
