"""Deliver changes to the remote caches again, and confirm which generation may be trusted."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from sidegate.core.clock import Clock
from sidegate.core.protocols import CacheTrust, ChangeLog, SessionCache
from sidegate.core.session import Session
from sidegate.core.timeouts import with_timeout
from sidegate.services.publisher import put_copies

# Seconds to read the generation, which is always quick: it detects an outage of the database.
_GENERATION_TIMEOUT: Final = 2.0
# Number of changes redelivered at startup: a crashed instance may not have published its last ones.
_STARTUP_CHANGES: Final = 1_000
# Sessions in one delivery. A delivery is repeated as a whole.
_BATCH_SIZE: Final = 500
# Seconds, longer than any lookup takes: a lookup that read a session before it changed has filled
# the cache by then, and the redelivered tombstone overwrites that copy.
REDELIVERY_DELAY: Final = 1.0


class _Delivery(NamedTuple):
    """Changes to deliver, and the monotonic time from when on."""

    due: float
    changed: Sequence[Session]


class Redelivery:
    """Delivers changes to the remote caches again; a subscriber of the change poller.

    Guarantees that each change, once it is due, reaches every remote cache, or that the next
    generation begins, in which all older copies are distrusted, by instances that start later too:
    a tombstone that never reached a Redis must not be missed when that Redis is back. The instance
    that made a change has published it; redelivery is late on purpose. No remote cache is trusted
    before the last changes have been redelivered at startup: an instance may have crashed between
    committing and publishing them.
    """

    def __init__(
        self,
        change_log: ChangeLog,
        caches: Sequence[SessionCache],
        *,
        trust: CacheTrust,
        clock: Clock,
        wakeup: asyncio.Event,
    ) -> None:
        """Deliver to `caches`. Set `wakeup` when the change poller's next round has work to do."""
        self._change_log = change_log
        self._caches = caches
        self._trust = trust
        self._clock = clock
        self._wakeup = wakeup
        self._undelivered: list[_Delivery] = []
        self._startup_scheduled = False

    def retry(self, changed: Sequence[Session]) -> None:
        """Redeliver, in the next round, changes made here that a remote cache has missed."""
        self._undelivered.append(_Delivery(self._clock.monotonic(), changed))
        self._wakeup.set()

    async def apply(self, changed: Sequence[Session]) -> None:
        """Redeliver changes that the change poller has read, after `REDELIVERY_DELAY`."""
        self._schedule(changed, self._clock.monotonic() + REDELIVERY_DELAY)

    def on_position_lost(self) -> None:
        """Begin the next generation in the next round.

        A change that a failover lost must not survive in a remote cache, where nothing could
        revoke it.
        """
        self._trust.end_generation()
        self._wakeup.set()

    async def schedule_startup(self) -> None:
        """Redeliver the last changes in the log. Before that no remote cache is trusted."""
        last_changed = await self._change_log.list_last_changed(_STARTUP_CHANGES)
        self._schedule(last_changed, self._clock.monotonic())
        self._startup_scheduled = True

    async def confirm_generation(self) -> int:
        """Read the current generation, use it here, and return it."""
        since = self._trust.mark()
        generation = await with_timeout(
            self._change_log.read_generation(), _GENERATION_TIMEOUT, store="durable"
        )
        if self._trust.is_outdated(generation):  # e.g. failover to a replica that lacked the last
            generation = await self._change_log.advance_generation(generation)
        self._trust.confirm(generation, since=since)
        return generation

    async def deliver_due(self) -> None:
        """Deliver what is due; on failure begin a generation. Confirm the generation.

        Deliveries that were made are not repeated if time runs out for the rest.
        """
        now, since = self._clock.monotonic(), self._trust.mark()
        generation = await self.confirm_generation()
        for delivery in self._list_due(now):
            if not await self._deliver(delivery.changed):
                # The generation was read after these changes, and all others that are due, were
                # committed: if another instance has ended it, it did so after them.
                generation = await self._change_log.advance_generation(generation)
                self._undelivered = [each for each in self._undelivered if each.due > now]
                break
            self._undelivered = [each for each in self._undelivered if each is not delivery]
        if self._startup_scheduled:
            self._trust.complete_startup()
        self._trust.confirm(generation, since=since)

    async def deliver_during_outage(self) -> None:
        """Deliver what is due during a database outage, and keep it scheduled.

        Other instances may still trust Redis.
        """
        for delivery in self._list_due(self._clock.monotonic()):
            await put_copies(delivery.changed, self._caches)

    def _schedule(self, changed: Sequence[Session], due: float) -> None:
        for start in range(0, len(changed), _BATCH_SIZE):
            self._undelivered.append(_Delivery(due, changed[start : start + _BATCH_SIZE]))

    def _list_due(self, now: float) -> list[_Delivery]:
        return [each for each in self._undelivered if each.due <= now]

    async def _deliver(self, changed: Sequence[Session]) -> bool:
        """Deliver to the remote caches; return whether all took it.

        A failed delivery is retried once: the first attempt may have to reconnect.
        """
        return await put_copies(changed, self._caches) or await put_copies(changed, self._caches)
