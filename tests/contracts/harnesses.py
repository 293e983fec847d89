"""All session finders and caches, each with a harness for the contract suites.

A harness stores a session in its implementation, and makes it fail; the suites do not depend on the
implementation. A new store or wrapper is one more row in FINDERS, CACHES or REMOTE_CACHES.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from sidegate.core.digest import Digest
from sidegate.core.protocols import BatchFinder, RemoteCache, SessionCache, SessionFinder
from sidegate.core.seal import Seal
from sidegate.core.session import Session, SessionRecord
from sidegate.stores.client.batching import Batched, BatchedCache
from sidegate.stores.client.circuit_breaker import CircuitBreaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedCache
from sidegate.stores.client.metrics import Metered, MeteredCache
from sidegate.stores.client.redis_trust import Trusted
from sidegate.stores.lookup import SessionLookup
from sidegate.stores.memory import MemoryStore
from sidegate.stores.negative_cache import NegativeCache
from sidegate.stores.postgres.sessions import PostgresSessions
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.support.clock import FakeClock
from tests.support.database_time import migrate_for_test_clock
from tests.support.fakes import FakeBackend, FakeCacheTrust
from tests.support.processes import Server, temporary_directory
from tests.support.redis_trust import FollowedRedis, build_mark, build_redis_trust
from tests.support.servers import (
    REDIS_KINDS,
    start_cluster_node,
    start_redis,
    start_sentinel,
)

NOW = datetime.now(UTC)
"""When the sessions of the suites begin: a real Redis expires keys by its own clock."""

StoreSession = Callable[[Session], Awaitable[Any]]
"""Stores a session under every digest that leads to it."""


@dataclass
class FinderHarness:
    """A finder under test. `fail` and `recover` are None if it cannot become unavailable."""

    finder: SessionFinder
    store_session: StoreSession
    fail: Callable[[], None] | None = None
    recover: Callable[[], None] | None = None


@dataclass
class CacheHarness:
    store: SessionCache
    clock: FakeClock


@dataclass
class RemoteCacheHarness:
    """A remote cache under test. `redis` is the store in it, which makes its rounds."""

    cache: RemoteCache
    redis: FollowedRedis

    async def fill(self, session: Session) -> Session:
        """Fill the cache as a lookup does that has read the database."""
        await self.cache.find(session.digest)
        return await self.cache.fill(self.redis.build_fill(session))


OpenFinder = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[FinderHarness]]
OpenCache = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[CacheHarness]]
OpenRemoteCache = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[RemoteCacheHarness]]


def ignore(*_: object) -> None:
    """Take the place of a callback whose calls do not matter."""


def build_breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker(failure_threshold=5, probe_interval=0.25, clock=clock, jitter=lambda: 0.5)


def build_guard(clock: FakeClock, *, seconds: float = 5.0) -> Guard:
    return Guard("backend", timeout=seconds, breaker=build_breaker(clock))


def build_memory_store(clock: FakeClock, *, max_sessions: int = 1000) -> MemoryStore:
    return MemoryStore(
        max_bytes=2**30, max_sessions=max_sessions, max_age=5.0, clock=clock, jitter=lambda: 0.0
    )


class _SupportsPut(Protocol):
    async def put(self, session: Session) -> Session: ...


def build_store_session(store: _SupportsPut) -> StoreSession:
    async def store_session(session: Session) -> None:
        for copy in session.copies():
            await store.put(copy)

    return store_session


# Stores


@asynccontextmanager
async def open_memory(_: pytest.FixtureRequest) -> AsyncIterator[FinderHarness]:
    store = build_memory_store(FakeClock(NOW))
    yield FinderHarness(store, build_store_session(store))


@asynccontextmanager
async def open_sqlite(_: pytest.FixtureRequest) -> AsyncIterator[FinderHarness]:
    with temporary_directory() as directory:
        store = await SqliteSessions.open(Path(directory) / "sidegate.db")
        yield FinderHarness(store, lambda session: store.create(SessionRecord(session)))
        await store.close()


@asynccontextmanager
async def open_postgres(request: pytest.FixtureRequest) -> AsyncIterator[FinderHarness]:
    server: Server = request.getfixturevalue("own_postgres")
    await migrate_for_test_clock(server.url)
    store = await PostgresSessions.open(server.url)
    yield FinderHarness(
        store, lambda session: store.create(SessionRecord(session)), server.kill, server.restart
    )
    await store.close()


@asynccontextmanager
async def start_redis_store(kind: str) -> AsyncIterator[tuple[Server, FollowedRedis]]:
    """Start a Redis of this kind (see REDIS_KINDS) with a store in it."""
    with temporary_directory() as directory:
        server = start_redis(directory, kind=kind)
        store = FollowedRedis(server.url)
        yield server, store
        await store.close()
        server.stop()


@asynccontextmanager
async def start_sentinel_store() -> AsyncIterator[tuple[Server, FollowedRedis]]:
    """Start a Redis and a Sentinel for it; the store asks the Sentinel."""
    with temporary_directory() as one, temporary_directory() as other:
        server = start_redis(one)
        sentinel = start_sentinel(other, server.port)
        store = FollowedRedis(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster")
        yield server, store
        await store.close()
        sentinel.stop()
        server.stop()


@asynccontextmanager
async def start_cluster_store() -> AsyncIterator[tuple[Server, FollowedRedis]]:
    """Start a Cluster of one node, with a store in it."""
    with temporary_directory() as directory:
        server = start_cluster_node(directory)
        store = FollowedRedis(server.url)
        yield server, store
        await store.close()
        server.stop()


StartStore = Callable[[], AbstractAsyncContextManager[tuple[Server, FollowedRedis]]]

REDIS_STORES: dict[str, StartStore] = {
    **{kind: partial(start_redis_store, kind) for kind in REDIS_KINDS},
    "redis_sentinel": start_sentinel_store,
    "redis_cluster": start_cluster_store,
}
"""Each server and topology, with a store in it."""


def open_redis(start: StartStore) -> OpenFinder:
    @asynccontextmanager
    async def open_harness(_: pytest.FixtureRequest) -> AsyncIterator[FinderHarness]:
        async with start() as (server, store):
            await store.follow()
            yield FinderHarness(store, build_store_session(store), server.kill, server.restart)

    return open_harness


# Wrappers around a fake backend


def open_wrapped(wrap: Callable[[FakeBackend, FakeClock], SessionFinder]) -> OpenFinder:
    @asynccontextmanager
    async def open_harness(_: pytest.FixtureRequest) -> AsyncIterator[FinderHarness]:
        backend, clock = FakeBackend(), FakeClock(NOW)

        def recover() -> None:
            backend.down = False
            clock.advance(1)  # the circuit breaker's probe is due

        def fail() -> None:
            backend.down = True

        yield FinderHarness(wrap(backend, clock), build_store_session(backend), fail, recover)

    return open_harness


def build_negative_cache(clock: FakeClock) -> NegativeCache:
    return NegativeCache(max_digests=100, max_age=2.0, clock=clock)


def build_full_stack(backend: FakeBackend, clock: FakeClock) -> SessionFinder:
    """Wrap `backend`, as the database, in everything that is around it in production."""
    guarded = Guarded(backend, guard=build_guard(clock))
    return SessionLookup(
        build_memory_store(clock),
        redis=BatchedCache(Trusted(FakeBackend(), build_redis_trust())),
        redis_trust=FakeCacheTrust({0: Seal.begin(build_mark())}),
        redis_deadline=5.0,
        database=Batched(Metered(guarded, store="backend", observe=ignore)),
        negative_cache=build_negative_cache(clock),
        deadline=5.0,
        clock=clock,
    )


def build_started_stack(backend: FakeBackend, clock: FakeClock) -> SessionFinder:
    """Wrap `backend`, as Redis, in everything that is around it; lookups begin without a task."""
    backend.starts = True
    guarded = GuardedCache(backend, guard=build_guard(clock))
    trusted = Trusted(guarded, build_redis_trust())
    return BatchedCache(MeteredCache(trusted, store="backend", observe=ignore))


def build_lookup(
    database: BatchFinder, clock: FakeClock, redis: FakeBackend | None = None
) -> SessionLookup:
    return SessionLookup(
        build_memory_store(clock),
        redis=None if redis is None else BatchedCache(redis),
        database=Batched(database),
        negative_cache=build_negative_cache(clock),
        deadline=5.0,
        clock=clock,
    )


class SkipRedis:
    """A lookup as it is used after a prefetch."""

    def __init__(self, lookup: SessionLookup) -> None:
        self._lookup = lookup

    async def find(self, digest: Digest) -> Session | None:
        return await self._lookup.find(digest, skip_redis=True)


FINDERS: dict[str, OpenFinder] = {
    "memory": open_memory,
    "sqlite": open_sqlite,
    "postgres": open_postgres,
    **{name: open_redis(start) for name, start in REDIS_STORES.items()},
    "trusted": open_wrapped(lambda s, _: Batched(Trusted(s, build_redis_trust()))),
    "batched": open_wrapped(lambda s, _: Batched(s)),
    "guarded": open_wrapped(lambda s, c: Batched(Guarded(s, guard=build_guard(c)))),
    "metered": open_wrapped(lambda s, _: Batched(Metered(s, store="backend", observe=ignore))),
    "metered_cache": open_wrapped(
        lambda s, _: Batched(MeteredCache(s, store="backend", observe=ignore))
    ),
    "started": open_wrapped(build_started_stack),
    "full_stack": open_wrapped(build_full_stack),
}


def _build_failed_backend() -> FakeBackend:
    backend = FakeBackend()
    backend.down = True
    return backend


# Caches


@asynccontextmanager
async def open_memory_cache(_: pytest.FixtureRequest) -> AsyncIterator[CacheHarness]:
    clock = FakeClock(NOW)
    yield CacheHarness(build_memory_store(clock), clock)


CACHES: dict[str, OpenCache] = {"memory": open_memory_cache}


# Remote caches


def open_remote(start: StartStore) -> OpenRemoteCache:
    @asynccontextmanager
    async def open_harness(_: pytest.FixtureRequest) -> AsyncIterator[RemoteCacheHarness]:
        async with start() as (__, store):
            await store.follow()
            yield RemoteCacheHarness(store, store)

    return open_harness


def open_remote_wrapped(wrap: Callable[[FollowedRedis], RemoteCache]) -> OpenRemoteCache:
    @asynccontextmanager
    async def open_harness(request: pytest.FixtureRequest) -> AsyncIterator[RemoteCacheHarness]:
        store = FollowedRedis(request.getfixturevalue("redis_url"))
        await store.follow()
        yield RemoteCacheHarness(wrap(store), store)
        await store.close()

    return open_harness


def build_redis_stack(store: FollowedRedis) -> RemoteCache:
    """Wrap a store in everything that is around it in production."""
    guarded = GuardedCache(store, guard=build_guard(store.clock))
    trusted = Trusted(guarded, store.trust)
    return BatchedCache(MeteredCache(trusted, store="redis", observe=ignore))


REMOTE_CACHES: dict[str, OpenRemoteCache] = {
    **{name: open_remote(start) for name, start in REDIS_STORES.items()},
    "batched": open_remote_wrapped(BatchedCache),
    "guarded": open_remote_wrapped(
        lambda s: BatchedCache(GuardedCache(s, guard=build_guard(s.clock)))
    ),
    "metered": open_remote_wrapped(
        lambda s: BatchedCache(MeteredCache(s, store="redis", observe=ignore))
    ),
    "trusted": open_remote_wrapped(lambda s: BatchedCache(Trusted(s, s.trust))),
    "full_stack": open_remote_wrapped(build_redis_stack),
}
