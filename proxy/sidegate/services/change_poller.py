"""Poll the database for changed sessions, and hand them to subscribers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn, Protocol

from sidegate.core.clock import Clock
from sidegate.core.errors import PositionLost, StoreUnavailable
from sidegate.core.protocols import ChangeLog
from sidegate.core.session import Session
from sidegate.core.timeouts import with_timeout
from sidegate.services.job_outage import watch_job
from sidegate.services.redelivery import Redelivery

# Seconds for one round: a hundred thousand changes are read and delivered within them.
_ROUND_TIMEOUT: Final = 10.0
# Seconds for redelivery; then new changes are read first.
_REDELIVERY_TIMEOUT: Final = 5.0
# Seconds between two rounds, however many notifications arrive: at most forty rounds a second.
_MIN_PAUSE: Final = 0.025


class ChangeSubscriber(Protocol):
    """Receives the changes that the change poller reads."""

    async def apply(self, changed: Sequence[Session]) -> None:
        """Apply changes. If this is cancelled, the same changes come again."""
        ...

    def on_position_lost(self) -> None:
        """The database has lost changes, which may have been applied here."""
        ...


class ChangePoller:
    """Reads the change log, on notification and periodically, and schedules redelivery.

    Guarantees that every subscriber receives every change after the start, in the order of the
    log, at least once; or is notified that the position in the log is lost.
    """

    def __init__(
        self,
        change_log: ChangeLog,
        *,
        memory: ChangeSubscriber,
        redelivery: Redelivery,
        clock: Clock,
        interval: float,
        wakeup: asyncio.Event,
    ) -> None:
        """Run a round every `interval` seconds, and when `wakeup` is set.

        Changes go to `memory`, this process's, and then to `redelivery`.
        """
        self._change_log = change_log
        self._subscribers: Sequence[ChangeSubscriber] = (memory, redelivery)
        self._redelivery = redelivery
        self._interval = interval
        self._wakeup = wakeup
        self._outage = watch_job("change_poller", clock)
        self._position = 0  # in the change log

    def wake(self) -> None:
        """Begin the next round now."""
        self._wakeup.set()

    async def run(self, on_round: Callable[[bool], None]) -> NoReturn:
        """Run rounds until cancelled; pass to `on_round` whether each succeeded."""
        try:
            while True:
                on_round(await self._attempt(self.poll()))
                await asyncio.sleep(_MIN_PAUSE)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._wakeup.wait()
                self._wakeup.clear()
        finally:
            await self._attempt(self._redelivery.deliver_due())

    async def poll(self) -> int:
        """Redeliver what is due, read new changes, and return how many sessions changed."""
        # First: it is quick, or the database is unavailable.
        await self._redelivery.confirm_generation()
        if self._position == 0:
            await self._start()
        try:
            # Before session rows are read, which may be locked.
            await with_timeout(self._redelivery.deliver_due(), _REDELIVERY_TIMEOUT, store="durable")
        except StoreUnavailable:
            await self._read_changes()  # a read-only database has changes all the same
            raise
        return await self._read_changes()

    async def _start(self) -> None:
        """Start at the log's current end, with the last changes to redeliver."""
        position, _ = await self._change_log.list_changed_since(0)
        await self._redelivery.schedule_startup()
        self._position = position

    async def _read_changes(self) -> int:
        try:
            position, changed = await self._change_log.list_changed_since(self._position)
        except PositionLost:
            position, changed = await self._change_log.list_changed_since(0)
            for subscriber in self._subscribers:
                # After the new position was read: later changes to cached copies are read.
                subscriber.on_position_lost()
        for subscriber in self._subscribers:
            await subscriber.apply(changed)
        self._position = position  # last: an interrupted round reads the same changes again
        return len(changed)

    async def _attempt(self, work: Awaitable[object]) -> bool:
        """Return whether `work` completed in time; if not, deliver what is due anyway."""
        try:
            await with_timeout(work, _ROUND_TIMEOUT, store="durable")
        except StoreUnavailable as error:
            self._outage.record_failure(error)
            with suppress(StoreUnavailable):
                await with_timeout(
                    self._redelivery.deliver_during_outage(), _ROUND_TIMEOUT, store="remote caches"
                )
            return False
        self._outage.record_success()
        return True
