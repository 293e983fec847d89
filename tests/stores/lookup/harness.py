"""A SessionLookup with fakes as Redis and database, and what tests do with it."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from sidegate.core.digest import Digest
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import Prefetched
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.client.batching import UNLIMITED, Batched, BatchedCache
from sidegate.stores.lookup import SessionLookup
from sidegate.stores.memory import MemoryStore
from sidegate.stores.negative_cache import NegativeCache
from tests.stores.waiting import wait_until
from tests.support.clock import FakeClock
from tests.support.fakes import FakeBackend, FakeCacheTrust
from tests.support.redis_trust import build_mark

REDIS_DEADLINE: Final = 2.0

# Longer than any test's session: what is in memory has to expire as a session, not as an entry.
_MEMORY_MAX_AGE: Final = 30 * 86_400.0

Caller = asyncio.Task[Any]


class LookupHarness:
    """A lookup, its stores with the given sessions, and the clock of all."""

    def __init__(
        self,
        *,
        memory: Iterable[Session] = (),
        redis: Iterable[Session] | None = (),
        database: Iterable[Session] = (),
        deadline: float = 30.0,
        max_in_memory: int = 100,
        max_misses: int = 100,
        max_outstanding: int = UNLIMITED,
    ) -> None:
        """`redis`: None for a lookup without Redis."""
        self.clock = FakeClock()
        self.memory = MemoryStore(
            max_sessions=max_in_memory,
            max_bytes=2**30,
            max_age=_MEMORY_MAX_AGE,
            clock=self.clock,
            jitter=lambda: 0.0,
        )
        self.redis = FakeBackend(*(redis or ()))
        self.redis_trust = FakeCacheTrust({0: Seal.begin(build_mark())})
        self.database = FakeBackend(*database)
        self.misses = NegativeCache(max_digests=max_misses, max_age=2.0, clock=self.clock)
        self.lookup = SessionLookup(
            self.memory,
            redis=None if redis is None else BatchedCache(self.redis),
            redis_trust=None if redis is None else self.redis_trust,
            redis_deadline=REDIS_DEADLINE,
            database=Batched(self.database, max_outstanding=max_outstanding),
            negative_cache=self.misses,
            deadline=deadline,
            clock=self.clock,
        )
        for session in memory:
            self.memory.put_nowait(session)
        self.find = self.lookup.find
        self.prefetch_timeout = REDIS_DEADLINE if redis is not None else deadline

    def put(self, cache: str, session: Session) -> None:
        """Put `session` into "memory" or "redis"."""
        if cache == "memory":
            self.memory.put_nowait(session)
        else:
            self.redis.sessions[session.digest] = session

    def read(self, cache: str, digest: Digest) -> Session | None:
        """Return the session in "memory" or "redis"."""
        if cache == "memory":
            return self.memory.get_nowait(digest)
        return self.redis.sessions.get(digest)

    def peek(self, digest: Digest) -> Session | None:
        """Return the session of the entry in memory."""
        entry = self.lookup.peek(digest)
        return None if entry is None else entry.session

    def age_in_memory(self, digest: Digest) -> float:
        """Return the seconds for which the entry in memory counts as present there."""
        entry = self.lookup.peek(digest)
        assert entry is not None
        return _MEMORY_MAX_AGE - (entry.fresh_until - self.clock.monotonic())

    def prefetch(self, digest: Digest) -> asyncio.Future[Session | None]:
        """Return the future result of a prefetch, which must not be refused."""
        done: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()

        def on_done(found: Prefetched) -> None:
            match found:
                case MemoryEntry():
                    done.set_result(found.session)
                case None:
                    done.set_result(None)
                case error:
                    done.set_exception(error)

        assert self.lookup.prefetch(digest, on_done, timeout=self.prefetch_timeout)
        assert not done.done()  # never before `prefetch` returns
        return done

    def refuses_prefetch(self, digest: Digest, *, timeout: float = REDIS_DEADLINE) -> bool:
        """Return whether a prefetch is refused. If it is not, its result is dropped."""
        return not self.lookup.prefetch(digest, lambda _: None, timeout=timeout)

    async def start_callers(
        self, digest: Digest, count: int, *, skip_redis: bool = False
    ) -> list[Caller]:
        """Return `count` callers that wait for the database, until it is unblocked."""
        self.database.unblocked.clear()
        callers = [
            asyncio.create_task(self.find(digest, skip_redis=skip_redis)) for _ in range(count)
        ]
        await wait_until(lambda: bool(self.database.lookups))
        return callers
