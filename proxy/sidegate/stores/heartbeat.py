"""Say something and listen for it: how long news take, and whether they arrive at all."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.within import within

# Seconds between two beats, and how long each is listened for. So a way that has fallen silent is
# found out within three.
EVERY: Final = 1.0
PATIENCE: Final = 2.0

_MARK: Final = b"beat "


class Heartbeat:
    """One instance's own voice on a feed that everybody hears."""

    def __init__(
        self, store: str, *, clock: Clock, lag: Callable[[float], None], every: float = EVERY
    ) -> None:
        """`lag` is told how many seconds each beat took from here to here."""
        self._every = every
        self._store = store
        self._monotonic = clock.monotonic
        self._lag = lag
        self._name = secrets.token_hex(8).encode()
        self._count = 0
        self._begun = 0.0
        self._echo = asyncio.Event()

    def beat(self) -> bytes:
        """Return what to say now."""
        self._count += 1
        self._echo.clear()
        self._begun = self._monotonic()
        return self._present

    def heard(self, message: bytes) -> bool:
        """Say whether a message is a beat, ours or another instance's."""
        if message == self._present and not self._echo.is_set():
            self._lag(self._monotonic() - self._begun)
            self._echo.set()
        return message.startswith(_MARK)

    async def echo(self) -> None:
        """Return when the last beat was heard. StoreUnavailable: it was not."""
        await within(PATIENCE, self._store, self._echo.wait())

    async def rest(self) -> None:
        """Return when it is time for the next beat. StoreUnavailable: it has long been.

        This process was stopped, and nobody knows what it has missed.
        """
        await asyncio.sleep(self._every)
        if self._monotonic() - self._begun > self._every + PATIENCE:
            raise StoreUnavailable(self._store, "this process has not run")

    @property
    def _present(self) -> bytes:
        return b"%s%s %d" % (_MARK, self._name, self._count)
