"""A provider's keys: fetched when they are needed, kept for a while, never fetched in a storm."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Final

from sidegate.core.clock import Clock
from sidegate.web.oidc.jose import Key, read_keys
from sidegate.web.schemas import strict_json

Source = Callable[[], Awaitable[bytes]]
"""Fetches a JWK Set as it is. Unfetched: it cannot be had."""

SELDOM: Final = 60.0
"""Seconds between two fetches: strangers name unknown keys as often as they like."""
RETRY: Final = 5.0
"""Seconds before a fetch that failed is tried again."""

_log: Final = logging.getLogger("sidegate.logout")


class Unfetched(Exception):
    """A source has nothing to give; the message says why, in words of our own."""


class KeysUnavailable(Exception):
    """Nobody knows whether the provider has such a key; ask again after `retry_after` seconds.

    `unasked`: it could be had, but was asked for a moment ago.
    """

    def __init__(self, retry_after: float, *, unasked: bool = False) -> None:
        super().__init__("the provider's keys cannot be had")
        self.retry_after = retry_after
        self.unasked = unasked


class ProviderKeys:
    """The keys of one provider, in this process's memory."""

    def __init__(
        self,
        source: Source,
        *,
        provider: str,
        algorithms: Collection[str],
        max_age: timedelta,
        clock: Clock,
        patience: float = 5.0,
    ) -> None:
        """Believe what was fetched for `max_age`, at least a minute.

        `patience` is how many seconds a fetch may take, discovery and all.
        """
        self._source = source
        self._provider = provider
        self._algorithms = algorithms
        self._max_age = max(max_age.total_seconds(), SELDOM)
        self._clock = clock
        self._patience = patience
        self._turn = asyncio.Lock()  # one flight at a time; whoever waited finds what it brought
        self._keys: tuple[Key, ...] = ()
        self._fetched_at: float | None = None
        self._next_fetch: float | None = None
        self._failed = False

    async def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the one key for this `kid` and algorithm; without a `kid`, the only one there is.

        None: the provider has none such, or several. KeysUnavailable: it could not be asked. A key
        that is not known yet is asked for, and only what was fetched since then is a no.
        """
        now = self._clock.monotonic()
        known = _only(await self._since(now - self._max_age), key_id, algorithm)
        return known or _only(await self._since(now), key_id, algorithm)

    async def _since(self, moment: float) -> tuple[Key, ...]:
        """Return the keys as they were fetched at `moment` or later."""
        async with self._turn:
            if self._fetched_at is None or self._fetched_at < moment:
                await self._fetch()
            return self._keys

    async def _fetch(self) -> None:
        now = self._clock.monotonic()
        if self._next_fetch is not None and now < self._next_fetch:
            raise KeysUnavailable(self._next_fetch - now, unasked=not self._failed)
        try:
            async with asyncio.timeout(self._patience):
                document = strict_json.read(await self._source())
            self._keys = read_keys(document, self._algorithms)
        except (Unfetched, ValueError, TimeoutError) as trouble:
            why = str(trouble) or f"no answer within {self._patience:g} s"
            _log.warning(
                "the keys of a provider cannot be had",
                extra={"provider": self._provider, "why": why},
            )
            self._failed, self._next_fetch = True, now + RETRY
            raise KeysUnavailable(RETRY) from None
        self._failed, self._next_fetch, self._fetched_at = False, now + SELDOM, now


def _only(keys: tuple[Key, ...], key_id: str | None, algorithm: str) -> Key | None:
    fitting = [key for key in keys if key.algorithm == algorithm and key_id in (None, key.id)]
    return fitting[0] if len(fitting) == 1 else None
