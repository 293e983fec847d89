"""Poll the database for changed sessions, and apply them to the memory of this process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn, Protocol, TypeVar

from sidegate.core.change_log import ChangeCursor, ChangedSession, ChangePage, Mark
from sidegate.core.clock import Clock
from sidegate.core.errors import PositionLost, StoreUnavailable, TooManyChanges
from sidegate.core.protocols import ChangeLog
from sidegate.core.timeouts import with_timeout
from sidegate.services.job_outage import watch_job

# Changes in one page: decoded and applied in a step of about a millisecond.
_PAGE_SIZE: Final = 64
# Seconds for all pages of a round. What cannot be read within them is not read: copies in memory
# are expired instead, which costs the same for any number of changes.
_PAGES_TIMEOUT: Final = 5.0
# Seconds for one page, which is always quick: it detects an outage of the database.
_PAGE_TIMEOUT: Final = 2.0
# Seconds between two rounds, however many notifications arrive: at most forty rounds a second.
_MIN_PAUSE: Final = 0.025

_Result = TypeVar("_Result")

_log: Final = logging.getLogger("sidegate.poller")


class ChangeSubscriber(Protocol):
    """Receives the changes that the change poller reads."""

    async def apply(self, changes: Sequence[ChangedSession], *, age: float) -> None:
        """Apply changes that were read `age` seconds ago.

        If this is cancelled, the same changes come again.
        """
        ...

    def on_overflow(self) -> None:
        """There were more changes than could be read; they do not come again."""
        ...

    def on_position_lost(self, lost: PositionLost) -> None:
        """The database has lost changes, which may have been applied here."""
        ...


class ChangePoller:
    """Reads the change log, on notification and periodically.

    Guarantees that the subscriber receives every change after the start, at least once; or is
    notified that it does not.
    """

    def __init__(
        self,
        change_log: ChangeLog,
        *,
        memory: ChangeSubscriber,
        clock: Clock,
        interval: float,
        pages_timeout: float = _PAGES_TIMEOUT,
    ) -> None:
        """Run a round every `interval` seconds, and after `wake`.

        `pages_timeout` is in seconds, for all changes of a round.
        """
        self._change_log = change_log
        self._memory = memory
        self._clock = clock
        self._interval = interval
        self._pages_timeout = pages_timeout
        self._wakeup = asyncio.Event()
        self._outage = watch_job("change_poller", clock)
        self._position: Mark | None = None

    def wake(self) -> None:
        """Begin the next round now."""
        self._wakeup.set()

    async def run(self, on_round: Callable[[bool], None]) -> NoReturn:
        """Run rounds until cancelled; pass to `on_round` whether each succeeded."""
        while True:
            on_round(await self._attempt())
            await asyncio.sleep(_MIN_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wakeup.wait()
            self._wakeup.clear()

    async def poll(self) -> int:
        """Read and apply new changes, and return how many sessions changed.

        The first call only finds the present position.
        """
        if self._position is None:
            self._position = await self._read_position()
            return 0
        try:
            async with asyncio.timeout(self._pages_timeout):
                self._position, changed = await self._read_pages(self._position)
        except (TooManyChanges, TimeoutError):
            # Read first: what changes later is read in the next round.
            self._position = await self._read_position()
            _log.warning("too many changes to read", extra={"seconds": self._pages_timeout})
            self._memory.on_overflow()
            return 0
        except PositionLost as lost:
            self._position = await self._read_position()
            self._memory.on_position_lost(lost)
            return 0
        return changed

    async def _read_pages(self, since: Mark) -> tuple[Mark, int]:
        """Apply all changes since a mark; return the position up to which they are complete."""
        page = await self._apply_page(since)
        position, changed = page.position, len(page.changes)
        while page.next is not None:
            page = await self._apply_page(since, after=page.next)
            changed += len(page.changes)
        return position, changed

    async def _apply_page(self, since: Mark, *, after: ChangeCursor | None = None) -> ChangePage:
        asked_at = self._clock.monotonic()
        page = await _in_time(self._change_log.list_changes(since, limit=_PAGE_SIZE, after=after))
        await self._memory.apply(page.changes, age=self._clock.monotonic() - asked_at)
        return page

    async def _read_position(self) -> Mark:
        return await _in_time(self._change_log.read_position())

    async def _attempt(self) -> bool:
        """Return whether a round succeeded."""
        try:
            await self.poll()
        except StoreUnavailable as error:
            self._outage.record_failure(error)
            return False
        self._outage.record_success()
        return True


async def _in_time(question: Awaitable[_Result]) -> _Result:
    return await with_timeout(question, _PAGE_TIMEOUT, store="durable")
