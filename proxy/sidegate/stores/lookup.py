"""The lookup of a session: memory, negative cache, one flight per digest, Redis, database."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.judge import judge, may_be_stale
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import CacheTrust, Fill, OnPrefetched, Prefetched
from sidegate.core.seal import CachePosition
from sidegate.core.session import Session
from sidegate.stores.client.batching import Batched, BatchedCache
from sidegate.stores.memory import MemoryStore
from sidegate.stores.negative_cache import NegativeCache
from sidegate.stores.shared_future import share_future

# Seconds by which trust in Redis may exceed the time of the last round (client/redis_trust.py).
# During an outage of the database nothing is committed that a round could find.
_MAX_TRUST_AGE: Final = 3.0

_log: Final = logging.getLogger("sidegate.lookup")


class _Prefetch(NamedTuple):
    """A lookup in the first store. `epoch` is that of memory when it began.

    `as_of`: the time, by the monotonic clock, from which on the copy may lack changes. `callers`
    still wait.
    """

    epoch: int
    as_of: float
    callers: list[OnPrefetched]


class SessionLookup:
    """Looks a digest up in one store after the other, and fills the caches on the way back.

    A cached session that has expired does not end the lookup: another instance may have touched or
    extended it, so the database decides before it is denied. An unavailable Redis is a miss.

    A digest has one lookup in flight, which all its callers share. It belongs to none of them: one
    that is cancelled, or has waited `deadline` seconds, cancels nothing.
    """

    def __init__(
        self,
        memory: MemoryStore,
        *,
        redis: BatchedCache | None = None,
        redis_trust: CacheTrust | None = None,
        redis_deadline: float = 0.0,
        database: Batched,
        negative_cache: NegativeCache,
        deadline: float,
        clock: Clock,
    ) -> None:
        """`deadline`: the seconds after which `find` raises StoreUnavailable("deadline").

        `redis_deadline`: those within which `redis` always answers or fails.
        `redis_trust` belongs to `redis`.
        """
        # Returns the entry in memory, or None. A miss is not counted: `find` will count it.
        self.peek: Callable[[Digest], MemoryEntry | None] = memory.get_entry
        self._memory = memory
        self._redis = redis
        self._redis_trust = redis_trust
        self._redis_deadline = redis_deadline
        self._database = database
        self._negative_cache = negative_cache
        self._deadline = deadline
        # The store that prefetches read, and the seconds within which they end.
        self._first: Batched = redis or database
        self._prefetch_deadline = deadline if redis is None else redis_deadline
        self._clock = clock
        self._flights: dict[Digest, asyncio.Task[Session | None]] = {}
        self._prefetches: dict[Digest, _Prefetch] = {}
        # The callers of this loop iteration that wait for the database.
        self._expiring: list[tuple[_Prefetch, OnPrefetched]] = []

    def prefetch(self, digest: Digest, on_done: OnPrefetched, *, timeout: float) -> bool:
        """Look up what `peek` did not find in the first store, without a task for each caller.

        `on_done` is called, after this returns, with the entry, with the error of a database that
        is the first store, or with None: `find` decides. That is so if there is no copy, and if
        Redis fails. It must not raise. Return False, and never call it, if that may take longer
        than `timeout` seconds, or if `find` answers without the store.
        """
        if timeout < self._prefetch_deadline:
            return False
        prefetch = self._prefetches.get(digest)
        if prefetch is None:
            if digest in self._negative_cache or digest in self._flights:
                return False
            prefetch = self._start_prefetch(digest)
        prefetch.callers.append(on_done)
        if self._redis is None:
            self._expire_later(prefetch, on_done)
        return True

    def _start_prefetch(self, digest: Digest) -> _Prefetch:
        prefetch = _Prefetch(self._memory.epoch, self._redis_as_of(), [])
        self._prefetches[digest] = prefetch
        try:
            self._first.submit(digest, self._end_prefetch)
        except StoreUnavailable as outage:
            asyncio.get_running_loop().call_soon(self._end_prefetch, digest, outage)
        return prefetch

    async def find(self, digest: Digest, *, skip_redis: bool = False) -> Session | None:
        """Return the session that `digest` leads to, tombstones included; None: there is none.

        `skip_redis`: `prefetch` has just called back, with None or with a session that may be
        stale, so memory and Redis are not read again. Raise StoreUnavailable if the stores that are
        left do not answer in time, and UnreadableRecord if the record in the database cannot be
        read.
        """
        if not skip_redis:
            session = await self._memory.find(digest)
            if session is not None and self._is_conclusive(session):
                return session
        if digest in self._negative_cache:
            return None
        flight = self._flights.get(digest) or self._start_flight(digest, skip_redis=skip_redis)
        answer = share_future(flight)
        timer = answer.get_loop().call_later(self._deadline, self._expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    def _start_flight(self, digest: Digest, *, skip_redis: bool) -> asyncio.Task[Session | None]:
        flight = asyncio.create_task(self._load(digest, skip_redis=skip_redis))
        self._flights[digest] = flight
        flight.add_done_callback(partial(self._end_flight, digest))
        return flight

    async def _load(self, digest: Digest, *, skip_redis: bool) -> Session | None:
        """Look in Redis and the database; fill Redis, memory and the negative cache."""
        epoch, redis = self._memory.epoch, self._redis
        if redis is not None and not skip_redis:
            as_of = self._redis_as_of()
            with suppress(StoreUnavailable):
                session = await redis.find(digest)
                if session is not None:
                    # Memory may have seen activity since.
                    session = self._fill_memory(session, epoch, as_of=as_of).session
                    if self._is_conclusive(session):
                        return session
        started, position = self._clock.monotonic(), self._redis_position()
        session = await self._database.find(digest)
        if session is None:
            self._negative_cache.add(digest)
            return None
        if redis is not None and position:
            with suppress(StoreUnavailable):
                session = await redis.fill(Fill(session, position))
        age = self._clock.monotonic() - started
        return self._memory.fill(session, epoch=epoch, age=age).session

    def _redis_position(self) -> CachePosition:
        return {} if self._redis_trust is None else self._redis_trust.position

    def _redis_as_of(self) -> float:
        """Return the time up to which a trusted Redis has all changes, by the monotonic clock."""
        trust = self._redis_trust
        age = 0.0 if trust is None else min(trust.age, _MAX_TRUST_AGE)
        return self._clock.monotonic() - age

    def _fill_memory(self, session: Session, epoch: int, *, as_of: float) -> MemoryEntry:
        """Put a copy into memory, where its age counts from the last round before its lookup."""
        return self._memory.fill(session, epoch=epoch, age=self._clock.monotonic() - as_of)

    def _is_conclusive(self, session: Session) -> bool:
        return not may_be_stale(judge(session, self._clock.now()))

    def _end_flight(self, digest: Digest, flight: asyncio.Task[Session | None]) -> None:
        del self._flights[digest]
        if not flight.cancelled():
            flight.exception()  # mark it as retrieved: every caller may have been cancelled

    def _expire(self, answer: asyncio.Future[Session | None]) -> None:
        if not answer.done():
            answer.set_exception(self._build_deadline_error())

    def _end_prefetch(self, digest: Digest, found: Session | BaseException | None) -> None:
        epoch, as_of, callers = self._prefetches.pop(digest)
        outcome: Prefetched = None
        try:
            if isinstance(found, Session):
                outcome = self._fill_memory(found, epoch, as_of=as_of)
            else:
                outcome = self._read_failure(digest, found)
        except Exception:  # noqa: BLE001 - the callers must be called all the same
            _log.exception("prefetch failed")
        while callers:
            self._call_back(callers.pop(), outcome)

    def _read_failure(self, digest: Digest, found: BaseException | None) -> Prefetched:
        match found:
            case None:
                if self._redis is None:
                    self._negative_cache.add(digest)
                return None
            case StoreUnavailable() | UnreadableRecord():
                return found if self._redis is None else None
            case asyncio.CancelledError():
                return None
            case error:
                raise error

    def _call_back(self, on_done: OnPrefetched, outcome: Prefetched) -> None:
        self._memory.misses += 1  # `peek` has not counted it
        try:
            on_done(outcome)
        except Exception:  # noqa: BLE001 - the others must be called all the same
            _log.exception("prefetch failed")

    def _expire_later(self, prefetch: _Prefetch, on_done: OnPrefetched) -> None:
        """Bound what a caller waits, by one timer for all of a loop iteration."""
        if not self._expiring:
            loop = asyncio.get_running_loop()
            loop.call_later(self._deadline, self._expire_callers, self._expiring)
            loop.call_soon(self._end_iteration)
        self._expiring.append((prefetch, on_done))

    def _end_iteration(self) -> None:
        self._expiring = []

    def _expire_callers(self, callers: Sequence[tuple[_Prefetch, OnPrefetched]]) -> None:
        for prefetch, on_done in callers:
            if on_done in prefetch.callers:
                prefetch.callers.remove(on_done)
                self._call_back(on_done, self._build_deadline_error())

    def _build_deadline_error(self) -> StoreUnavailable:
        return StoreUnavailable("deadline", f"no answer within {self._deadline * 1000:.0f} ms")
