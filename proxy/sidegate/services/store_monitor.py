"""Ping each store once a second, so that its metric knows an outage without any request."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn

from sidegate.core.errors import StoreUnavailable

_INTERVAL: Final = 1.0
# Seconds; less than the default timeout of a Kubernetes probe, which is 1 s.
_TIMEOUT: Final = 0.8

Ping = Callable[[], Awaitable[None]]
"""Returns if the store responds. Raises StoreUnavailable if it does not."""


async def is_available(ping: Ping) -> bool:
    """Return whether a store answers a ping in time."""
    with suppress(StoreUnavailable, TimeoutError):
        async with asyncio.timeout(_TIMEOUT):
            await ping()
            return True
    return False


class StoreMonitor:
    """Reports whether each store answers."""

    def __init__(self, pings: Mapping[str, Ping], *, report: Callable[[str, bool], None]) -> None:
        """`report` receives a store's name, and whether it answered its last ping."""
        self._pings = pings
        self._report = report

    async def run(self) -> NoReturn:
        """Ping until cancelled."""
        while True:
            await self.ping()
            await asyncio.sleep(_INTERVAL)

    async def ping(self) -> None:
        """Ping all stores once, at the same time."""
        await asyncio.gather(*(self._ping(store, ping) for store, ping in self._pings.items()))

    async def _ping(self, store: str, ping: Ping) -> None:
        self._report(store, await is_available(ping))
