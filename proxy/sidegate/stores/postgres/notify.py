"""Change notifications from Postgres: LISTEN on a connection of its own.

A notification does not say what changed: the receiver queries the changes, as it does when polling.
So a lost notification loses no change, no payload is too long, and no digest is published.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.outage import Outage
from sidegate.core.timeouts import with_timeout
from sidegate.stores.heartbeat import HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, Heartbeat
from sidegate.stores.postgres.connection import translate_errors
from sidegate.stores.postgres.connector import Connector

if TYPE_CHECKING:
    from sidegate.stores.postgres.connection import Connection

CHANNEL: Final = "sidegate"
"""The channel; the triggers of migration 0011 notify it too."""

# Seconds between two attempts to connect.
_RETRY_DELAY: Final = 0.25

_NOT_RECEIVED: Final = (
    "no notification is received: postgres.listen_url must not lead through a transaction pooler"
)

_log: Final = logging.getLogger("sidegate.notify")


class NotifySubscription:
    """Listens to the database at `dsn`, which must not lead through a transaction pooler.

    Behind such a pooler LISTEN has no effect, since each statement may use another connection.
    """

    def __init__(self, dsn: str, *, clock: Clock, on_lag: Callable[[float], None]) -> None:
        """`on_lag` receives the round trip time of a NOTIFY, in seconds.

        Raise ValueError for a DSN of another form.
        """
        self._connector = Connector.parse(dsn, prepared_statements=False)
        self._heartbeat = Heartbeat("postgres", clock=clock, on_lag=on_lag)
        self._outage = Outage(clock=clock, on_start=_log_disconnected, on_end=_log_connected)

    async def listen(
        self, *, on_notify: Callable[[], None], on_status: Callable[[bool], None]
    ) -> NoReturn:
        """Call `on_notify` for each change and whenever one may have been missed, until cancelled.

        `on_status` receives whether notifications arrive: False within three seconds after they
        stop.
        """
        while True:
            try:
                await self._listen(on_notify, on_status)
            except StoreUnavailable as error:
                self._outage.record_failure(error)
            on_status(False)
            await asyncio.sleep(_RETRY_DELAY)

    async def _listen(
        self, on_notify: Callable[[], None], on_status: Callable[[bool], None]
    ) -> NoReturn:
        """Listen. Raise StoreUnavailable when the connection is lost."""
        with translate_errors():
            connection = await self._connector.connect()
            try:
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _: lost.set())
                await with_timeout(
                    self._subscribe(connection, on_notify), HEARTBEAT_TIMEOUT, store="postgres"
                )
                while not lost.is_set():
                    await self._check(connection)
                    self._outage.record_success()
                    on_status(True)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(HEARTBEAT_INTERVAL):
                            await lost.wait()
                raise StoreUnavailable("postgres", "the connection was closed")
            finally:
                connection.terminate()  # close() would wait for a server that may not answer

    async def _subscribe(self, connection: "Connection", on_notify: Callable[[], None]) -> None:
        def receive(*notification: object) -> None:
            if not self._heartbeat.receive(str(notification[-1]).encode()):
                on_notify()

        await connection.add_listener(CHANNEL, receive)
        on_notify()

    async def _check(self, connection: "Connection") -> None:
        message = self._heartbeat.next_message().decode()
        notify = connection.execute("SELECT pg_notify($1, $2)", CHANNEL, message)
        await with_timeout(notify, HEARTBEAT_TIMEOUT, store="postgres")
        try:
            await self._heartbeat.wait_for_echo()
        except StoreUnavailable:
            raise StoreUnavailable("postgres", _NOT_RECEIVED) from None


def _log_disconnected(reason: str) -> None:
    _log.warning("notify disconnected", extra={"reason": reason})


def _log_connected(seconds: float) -> None:
    _log.info("notify connected", extra={"outage_seconds": round(seconds, 1)})
