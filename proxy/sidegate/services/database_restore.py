"""What follows when the database was restored, or a failover has lost commits.

Sessions that the database does not know any more are refused, as it is the source of truth.
Revocations that it has lost are written again, where memory or Redis still has the tombstones.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Final, NoReturn, Protocol

from sidegate.core.clock import Clock
from sidegate.core.errors import PositionLost, StoreUnavailable
from sidegate.core.protocols import ChangeLog
from sidegate.core.session import Session, SessionId
from sidegate.core.timeouts import with_timeout
from sidegate.services.job_outage import watch_job

# Tombstones in one statement.
_BATCH_SIZE: Final = 500
# Seconds for one statement, and between two attempts.
_TIMEOUT: Final = 5.0
_RETRY_PAUSE: Final = 0.5
# Seconds in which a restore is noticed by every position that it made invalid. Not all of them tell
# the same time: one without an id cannot tell marks made before the restore from later ones.
_NOTICE_PERIOD: Final = 60.0

_log: Final = logging.getLogger("sidegate.restore")


class TombstoneSource(Protocol):
    """A cache in which tombstones of a namespace that was left can still be read."""

    def read_tombstones(self, namespace: str) -> AsyncIterator[Sequence[Session]]:
        """Yield the tombstones under a namespace, a few at a time."""
        ...


class DatabaseRestore:
    """Reports a restore, and writes the tombstones that are left back to the database."""

    def __init__(
        self,
        change_log: ChangeLog,
        *,
        cache: TombstoneSource | None,
        clock: Clock,
        count: Callable[[], None],
    ) -> None:
        """`count` is called for each restore. `cache` is read if it has left a namespace."""
        self._change_log = change_log
        self._cache = cache
        self._clock = clock
        self._count = count
        self._tombstones: dict[SessionId, Session] = {}
        self._namespaces: set[str] = set()
        self._wakeup = asyncio.Event()
        self._outage = watch_job("database_restore", clock)
        self._restored_since: datetime | None = None
        self._noticed_at = float("-inf")

    @property
    def restored_since(self) -> datetime | None:
        """The time from which on changes were lost by the last restore; None: none was noticed."""
        return self._restored_since

    def report(
        self,
        lost: PositionLost,
        *,
        tombstones: Iterable[Session] = (),
        namespaces: Collection[str] = (),
    ) -> None:
        """Report a lost position; if the database was restored, write back what is left."""
        if lost.restored_since is None:
            _log.warning("change log position lost", extra={"reason": str(lost)})
            return
        self._notice(lost.restored_since)
        self._tombstones.update((tombstone.id, tombstone) for tombstone in tombstones)
        self._namespaces.update(namespaces)
        self._wakeup.set()

    def _notice(self, restored_since: datetime) -> None:
        """Count and log a restore once, or again if it has lost more than was logged."""
        now, before = self._clock.monotonic(), self._restored_since
        is_new = now - self._noticed_at >= _NOTICE_PERIOD
        if restored_since == before or (not is_new and before and restored_since > before):
            return
        if is_new:
            self._noticed_at = now
            self._count()
        self._restored_since = restored_since
        _log.error("database restored", extra={"restored_since": restored_since.isoformat()})

    async def run(self) -> NoReturn:
        """Write back what was reported, until cancelled."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()  # first: what is reported meanwhile is written in the next pass
            try:
                await self.write_back()
            except StoreUnavailable as error:
                self._outage.record_failure(error)
                self._wakeup.set()
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                self._outage.record_success()

    async def write_back(self) -> int:
        """Revoke again what was revoked, and return how many sessions that has changed.

        Raise StoreUnavailable if something is left; call again.
        """
        revoked = await self._write_tombstones()
        while self._cache is not None and self._namespaces:
            namespace = next(iter(self._namespaces))
            async for tombstones in self._cache.read_tombstones(namespace):
                self._tombstones.update((tombstone.id, tombstone) for tombstone in tombstones)
                revoked += await self._write_tombstones()
            self._namespaces.discard(namespace)
        if revoked:
            _log.info("revocations restored", extra={"sessions": revoked})
        return revoked

    async def _write_tombstones(self) -> int:
        revoked = 0
        while self._tombstones:
            batch = list(islice(self._tombstones.values(), _BATCH_SIZE))
            changes = await with_timeout(
                self._change_log.revoke_again(batch), _TIMEOUT, store="durable"
            )
            revoked += len(changes)
            for tombstone in batch:
                with suppress(KeyError):
                    del self._tombstones[tombstone.id]
        return revoked
