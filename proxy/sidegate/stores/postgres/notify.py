"""Postgres rings when something has changed: a NOTIFY, heard on a connection of our own.

What it was the bell does not say: whoever hears it asks, as if it were time to. So a bell that was
not heard loses nothing, its message is never too long, and no digest travels with it.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import asyncpg

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.within import within
from sidegate.stores.heartbeat import EVERY, PATIENCE, Heartbeat
from sidegate.stores.postgres.connection import primary, understood

if TYPE_CHECKING:
    from sidegate.stores.postgres.connection import Connection

CHANNEL: Final = "sidegate"
"""The triggers of migration 0011 know it, too."""

# Seconds between two attempts to connect.
_PAUSE: Final = 0.25

_log: Final = logging.getLogger("sidegate.bell")


class NotifySubscription:
    """Hears the database at `dsn`, which must not be a pooler that lends each statement another
    connection: there nobody would listen.
    """

    def __init__(self, dsn: str, *, clock: Clock, lag: Callable[[float], None]) -> None:
        """`lag` is told how many seconds a NOTIFY takes from here to here."""
        self._dsn = dsn
        self._heart = Heartbeat("postgres", clock=clock, lag=lag)
        self._heard = True  # nobody has complained yet

    async def listen(self, *, rung: Callable[[], None], up: Callable[[bool], None]) -> NoReturn:
        """Call `rung` for each change, until cancelled, and whenever one may have been missed.

        `up` is told when the bell comes and goes; that it has fallen silent, within three seconds.
        """
        while True:
            with suppress(StoreUnavailable):
                await self._listen(rung, up)
            up(False)
            await asyncio.sleep(_PAUSE)

    async def _listen(self, rung: Callable[[], None], up: Callable[[bool], None]) -> None:
        """Listen as long as the connection holds."""
        with understood():
            connection = await asyncpg.connect(self._dsn, **primary(prepared_statements=False))
            try:
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _: lost.set())
                await within(PATIENCE, "postgres", self._attend(connection, rung))
                while not lost.is_set():
                    await self._beat(connection)
                    up(True)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(EVERY):
                            await lost.wait()
            finally:
                connection.terminate()  # not closed: that would wait for one who says no more

    async def _attend(self, connection: "Connection", rung: Callable[[], None]) -> None:
        def heard(*notification: object) -> None:
            if not self._heart.heard(str(notification[-1]).encode()):
                rung()

        await connection.add_listener(CHANNEL, heard)
        rung()

    async def _beat(self, connection: "Connection") -> None:
        message = self._heart.beat().decode()
        beat = connection.execute("SELECT pg_notify($1, $2)", CHANNEL, message)
        await within(PATIENCE, "postgres", beat)
        try:
            await self._heart.echo()
        except StoreUnavailable:
            if self._heard:
                _log.warning("nothing is heard: does postgres.listen_url lead through a pooler?")
            self._heard = False
            raise
        self._heard = True
