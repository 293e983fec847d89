"""A cache of an identity provider's keys, fetched on demand and at a limited rate."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Final

from sidegate.core.clock import Clock
from sidegate.web.oidc.jose import Key, parse_jwk_set
from sidegate.web.schemas import strict_json

JwksSource = Callable[[], Awaitable[bytes]]
"""Fetches an encoded JWK Set. Raises FetchFailed if it cannot."""

MIN_FETCH_INTERVAL: Final = 60.0
"""Seconds between two fetches: unauthenticated clients can name unknown keys at any rate."""
RETRY_DELAY: Final = 5.0
"""Seconds between a failed fetch and the next one."""

_log: Final = logging.getLogger("sidegate.logout")


class FetchFailed(Exception):
    """A JWK Set could not be fetched. The message says why, and repeats nothing received."""


class KeysUnavailable(Exception):
    """It is unknown whether the provider has a key; retry after `retry_after` seconds.

    `rate_limited` means that no fetch failed: the last one was less than MIN_FETCH_INTERVAL ago.
    """

    def __init__(self, retry_after: float, *, rate_limited: bool = False) -> None:
        super().__init__("the provider's keys are unavailable")
        self.retry_after = retry_after
        self.rate_limited = rate_limited


class ProviderKeys:
    """The cached keys of one provider."""

    def __init__(
        self,
        source: JwksSource,
        *,
        provider: str,
        algorithms: Collection[str],
        max_age: timedelta,
        clock: Clock,
        timeout: float = 5.0,
    ) -> None:
        """Keys are cached for `max_age`, at least MIN_FETCH_INTERVAL.

        `timeout` is in seconds, for a fetch including discovery.
        """
        self._source = source
        self._provider = provider
        self._algorithms = algorithms
        self._max_age = max(max_age.total_seconds(), MIN_FETCH_INTERVAL)
        self._clock = clock
        self._timeout = timeout
        self._fetch_lock = asyncio.Lock()  # single flight: waiting callers use the fetched keys
        self._keys: tuple[Key, ...] = ()
        self._fetched_at: float | None = None
        self._next_fetch: float | None = None
        self._failed = False

    async def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the key with this `kid` and algorithm; without a `kid`, the only key.

        None means that the provider has no such key, or several. An unknown key is looked for in a
        new fetch. Raise KeysUnavailable if that fails or is not due yet.
        """
        now = self._clock.monotonic()
        cached = _find_only(
            await self._keys_since(now - self._max_age), key_id, algorithm=algorithm
        )
        return cached or _find_only(await self._keys_since(now), key_id, algorithm=algorithm)

    async def _keys_since(self, at: float) -> tuple[Key, ...]:
        """Return keys fetched at `at` (monotonic seconds) or later."""
        async with self._fetch_lock:
            if self._fetched_at is None or self._fetched_at < at:
                await self._fetch()
            return self._keys

    async def _fetch(self) -> None:
        now = self._clock.monotonic()
        if self._next_fetch is not None and now < self._next_fetch:
            raise KeysUnavailable(self._next_fetch - now, rate_limited=not self._failed)
        try:
            async with asyncio.timeout(self._timeout):
                document = strict_json.parse(await self._source())
            self._keys = parse_jwk_set(document, self._algorithms)
        except (FetchFailed, ValueError, TimeoutError) as error:
            reason = str(error) or f"no response within {self._timeout:g} s"
            if not self._failed:
                _log.warning(
                    "provider keys unavailable",
                    extra={"provider": self._provider, "reason": reason},
                )
            self._failed, self._next_fetch = True, now + RETRY_DELAY
            raise KeysUnavailable(RETRY_DELAY) from None
        if self._failed:
            _log.info("provider keys available", extra={"provider": self._provider})
        self._failed, self._next_fetch, self._fetched_at = False, now + MIN_FETCH_INTERVAL, now


def _find_only(keys: tuple[Key, ...], key_id: str | None, *, algorithm: str) -> Key | None:
    matches = [key for key in keys if key.algorithm == algorithm and key_id in (None, key.id)]
    return matches[0] if len(matches) == 1 else None
