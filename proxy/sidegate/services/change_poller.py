"""Poll the database for changed sessions, and pass them to memory and Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.errors import PositionLost, StoreUnavailable
from sidegate.core.protocols import DurableStore, SessionCache
from sidegate.core.session import Session
from sidegate.core.timeouts import with_timeout
from sidegate.services.publisher import put_copies

# Seconds for one round: a hundred thousand changes are read and delivered within them.
_ROUND_TIMEOUT: Final = 10.0
# Seconds to read the generation, which is always quick. It is read first, to detect an outage.
_GENERATION_TIMEOUT: Final = 2.0
# Seconds for redelivery; then new changes are read first.
_REDELIVERY_TIMEOUT: Final = 5.0
# Number of changes redelivered at startup: a crashed instance may not have published its last ones.
_STARTUP_CHANGES: Final = 1_000
# Sessions in one delivery. A delivery is repeated as a whole.
_BATCH_SIZE: Final = 500
# Seconds between two rounds, however many notifications arrive: at most forty rounds a second.
_MIN_PAUSE: Final = 0.025
# Seconds, longer than any lookup takes: a lookup that read a session before it changed has filled
# the cache by then, and the redelivered tombstone overwrites that copy.
REDELIVERY_DELAY: Final = 1.0


class _Delivery(NamedTuple):
    """Changes to redeliver to the remote caches, and the monotonic time from when on."""

    due: float
    changed: Sequence[Session]


class ChangePoller:
    """Reads the change log, on notification and periodically; misses no change.

    This process's memory is updated at once. The instance that made a change has published it to
    the remote caches; the poller delivers it again, late on purpose. If a remote cache cannot be
    updated, the next generation begins and all its older copies are distrusted, by instances that
    start later too: a tombstone that never reached a Redis must not be missed when that Redis is
    back. The last changes are redelivered at startup, before a remote cache is trusted: an
    instance may have crashed between committing and publishing them.
    """

    def __init__(
        self,
        durable: DurableStore,
        *,
        caches: Sequence[SessionCache],
        on_generation: Callable[[int], None],
        on_redis_trust: Callable[[bool], None],
        on_gap: Callable[[], None],
        clock: Clock,
        interval: float,
    ) -> None:
        """Poll every `interval` seconds.

        `caches` begins with this process's memory; the others are remote. Call `on_generation`
        with each generation read, under which remote caches store their copies, `on_redis_trust`
        with whether those may be trusted, and `on_gap` when changes may have been missed.
        """
        self._durable = durable
        self._memory, self._remote = caches[:1], caches[1:]
        self._on_generation = on_generation
        self._on_redis_trust = on_redis_trust
        self._on_gap = on_gap
        self._clock = clock
        self._interval = interval
        self._position = 0  # in the change log
        self._started = False
        self._distrusts = 0  # number of calls of distrust_redis
        self._generation = 0
        self._undelivered: list[_Delivery] = []
        self._wakeup = asyncio.Event()

    def wake(self) -> None:
        """Begin the next round now."""
        self._wakeup.set()

    def distrust_redis(self) -> None:
        """Distrust the remote caches until the generation has been read anew.

        It may have changed, without a notification, while they could not be reached.
        """
        self._distrusts += 1
        self._on_redis_trust(False)
        self.wake()

    def redeliver_later(self, changed: Sequence[Session]) -> None:
        """Redeliver, in the next round, changes made here that a remote cache has missed."""
        self._undelivered.append(_Delivery(self._clock.monotonic(), changed))
        self.wake()

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
            await self._attempt(self.redeliver())

    async def poll(self) -> int:
        """Redeliver what is due, read new changes, and return how many sessions changed."""
        await self._read_generation()  # first: it is quick, or the database is unavailable
        if self._position == 0:
            await self._start()
        try:
            # Before session rows are read, which may be locked.
            await with_timeout(_REDELIVERY_TIMEOUT, "durable", self.redeliver())
        except StoreUnavailable:
            await self._read_changes()  # a read-only database has changes all the same
            raise
        return await self._read_changes()

    async def redeliver(self) -> None:
        """Deliver what is due to the remote caches; on failure begin a generation.

        Deliveries that were made are not repeated if time runs out for the rest.
        """
        now, distrusts = self._clock.monotonic(), self._distrusts
        generation = await self._read_generation()
        for delivery in [each for each in self._undelivered if each.due <= now]:
            if not await self._deliver(delivery.changed):
                # The generation was read after these changes, and all others that are due, were
                # committed: if another instance has ended it, it did so after them.
                generation = await self._durable.advance_generation(generation)
                self._undelivered = [each for each in self._undelivered if each.due > now]
                break
            self._undelivered = [each for each in self._undelivered if each is not delivery]
        self._started = self._position != 0
        self._use_generation(generation, distrusts)

    async def _deliver(self, changed: Sequence[Session]) -> bool:
        """Deliver to the remote caches; return whether all took it.

        A failed delivery is retried once: the first attempt may have to reconnect.
        """
        return await put_copies(changed, self._remote) or await put_copies(changed, self._remote)

    async def _read_generation(self) -> int:
        """Read the current generation, use it here, and return it."""
        distrusts = self._distrusts
        generation = await with_timeout(
            _GENERATION_TIMEOUT, "durable", self._durable.read_generation()
        )
        if generation < self._generation:  # failover to a replica that lacked the last one
            generation = await self._durable.advance_generation(generation)
        self._use_generation(generation, distrusts)
        return generation

    def _use_generation(self, generation: int, distrusts: int) -> None:
        """Use `generation`; trust Redis unless distrusted since `distrusts` was read.

        Redis is not trusted before the startup changes have been redelivered.
        """
        self._generation = generation
        self._on_generation(generation)
        if self._started and distrusts == self._distrusts:
            self._on_redis_trust(True)

    async def _read_changes(self) -> int:
        try:
            position, changed = await self._durable.list_changed_since(self._position)
        except PositionLost:
            position, changed = await self._durable.list_changed_since(0)
            self._on_gap()  # after the new position: later changes to cached copies are read
            # A change that a failover lost must not survive in a remote cache, where nothing could
            # revoke it.
            self._generation += 1
            self.distrust_redis()
        await put_copies(changed, self._memory)
        self._schedule(changed, self._clock.monotonic() + REDELIVERY_DELAY)
        self._position = position  # last: an interrupted round reads the same changes again
        return len(changed)

    async def _start(self) -> None:
        """Start at the log's current end, with the last changes to redeliver."""
        position, _ = await self._durable.list_changed_since(0)
        last_changed = await self._durable.list_last_changed(_STARTUP_CHANGES)
        self._schedule(last_changed, self._clock.monotonic())
        self._position = position

    def _schedule(self, changed: Sequence[Session], due: float) -> None:
        for start in range(0, len(changed), _BATCH_SIZE):
            self._undelivered.append(_Delivery(due, changed[start : start + _BATCH_SIZE]))

    async def _deliver_during_outage(self) -> None:
        """Deliver what is due during a database outage, and keep it scheduled.

        Other instances may still trust Redis.
        """
        now = self._clock.monotonic()
        for delivery in [each for each in self._undelivered if each.due <= now]:
            await put_copies(delivery.changed, self._remote)

    async def _attempt(self, work: Awaitable[object]) -> bool:
        """Return whether `work` completed in time; if not, deliver what is due anyway."""
        try:
            await with_timeout(_ROUND_TIMEOUT, "durable", work)
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                await with_timeout(_ROUND_TIMEOUT, "remote caches", self._deliver_during_outage())
            return False
        return True
