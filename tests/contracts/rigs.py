"""Every finder and hot store there is, ready to be put through the contracts.

A rig knows how to make its store know a session, and how to break it; the contracts never ask
which store they are talking to. A new store or wrapper is one more row in FINDERS or HOT_STORES.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from sidegate.core.protocols import SessionCache, SessionFinder
from sidegate.core.session import Session, SessionRecord
from sidegate.stores.client.batched import Batched, BatchedCache
from sidegate.stores.client.circuit_breaker import CircuitBreaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedCache
from sidegate.stores.client.metrics import Metered, MeteredCache
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.memory import MemoryStore
from sidegate.stores.negative_cache import NegativeCache, NegativeCaching
from sidegate.stores.postgres.migrate import migrate_postgres
from sidegate.stores.postgres.sessions import PostgresSessions
from sidegate.stores.read_through import ReadThrough, SkipCache
from sidegate.stores.redis.store import RedisStore
from sidegate.stores.single_flight import SingleFlight
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.support.clock import FakeClock
from tests.support.fakes import Shelf
from tests.support.processes import Server, temporary_directory
from tests.support.servers import start_cluster_node, start_redis, start_sentinel

NOW = datetime.now(UTC)
"""When the contracts' sessions begin: a real Redis forgets what has ended by its own clock."""

Learn = Callable[[Session], Awaitable[Any]]
"""Make the store know a session, under every digest that leads to it."""


@dataclass
class Rig:
    """A finder under test. `fail` and `heal` are absent where nothing can be taken away."""

    finder: SessionFinder
    learn: Learn
    fail: Callable[[], None] | None = None
    heal: Callable[[], None] | None = None


@dataclass
class HotRig:
    store: SessionCache
    clock: FakeClock


Make = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Rig]]
MakeHot = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[HotRig]]


def ignore(*_: object) -> None:
    """Stand where somebody counts."""


def a_breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker(failures=5, probe_every=0.25, clock=clock, jitter=lambda: 0.5)


def a_guard(clock: FakeClock, *, seconds: float = 5.0) -> Guard:
    return Guard("shelf", seconds=seconds, breaker=a_breaker(clock))


def a_local_store(clock: FakeClock, *, max_sessions: int = 1000) -> MemoryStore:
    return MemoryStore(
        max_bytes=2**30, max_sessions=max_sessions, max_age=5.0, clock=clock, jitter=lambda: 0.0
    )


class _Puts(Protocol):
    async def put(self, session: Session) -> Session: ...


def put_all(store: _Puts) -> Learn:
    async def learn(session: Session) -> None:
        for copy in session.copies():
            await store.put(copy)

    return learn


# Leaves


@asynccontextmanager
async def local(_: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    store = a_local_store(FakeClock(NOW))
    yield Rig(store, put_all(store))


@asynccontextmanager
async def sqlite(_: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    with temporary_directory() as directory:
        store = await SqliteSessions.open(Path(directory) / "sidegate.db")
        yield Rig(store, lambda session: store.create(SessionRecord(session)))
        await store.close()


@asynccontextmanager
async def postgres(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    server: Server = request.getfixturevalue("own_postgres")
    await migrate_postgres(server.url)
    store = await PostgresSessions.open(server.url)
    yield Rig(
        store, lambda session: store.create(SessionRecord(session)), server.kill, server.restart
    )
    await store.close()


def redis_at(url: str) -> RedisStore:
    # Patient: a busy machine is not what these contracts are about.
    return RedisStore(url, on_unreadable=ignore, timeout=5.0)


@asynccontextmanager
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    server: Server = request.getfixturevalue("own_redis")
    store = redis_at(server.url)
    yield Rig(store, put_all(store), server.kill, server.restart)
    await store.close()


@asynccontextmanager
async def redis_sentinel(_: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    with temporary_directory() as one, temporary_directory() as other:
        server = start_redis(one)
        sentinel = start_sentinel(other, server.port)
        store = redis_at(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster")
        yield Rig(store, put_all(store), server.kill, server.restart)
        await store.close()
        sentinel.stop()
        server.stop()


@asynccontextmanager
async def redis_cluster(_: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    with temporary_directory() as directory:
        server = start_cluster_node(directory)
        store = redis_at(f"redis+cluster://127.0.0.1:{server.port}")
        yield Rig(store, put_all(store), server.kill, server.restart)
        await store.close()
        server.stop()


# Wrappers, round a shelf


def wrapped(wrap: Callable[[Shelf, FakeClock], SessionFinder]) -> Make:
    @asynccontextmanager
    async def make(_: pytest.FixtureRequest) -> AsyncIterator[Rig]:
        shelf, clock = Shelf(), FakeClock(NOW)

        def heal() -> None:
            shelf.down = False
            clock.advance(1)  # a breaker's probe is due

        def fail() -> None:
            shelf.down = True

        yield Rig(wrap(shelf, clock), put_all(shelf), fail, heal)

    return make


def some_misses(clock: FakeClock) -> NegativeCache:
    return NegativeCache(max_digests=100, max_age=2.0, clock=clock)


def tower(shelf: Shelf, clock: FakeClock) -> SessionFinder:
    """All of them, in the order of the plan."""
    near = a_local_store(clock)
    guarded = Batched(Guarded(shelf, guard=a_guard(clock)))
    far = Metered(guarded, store="shelf", observe=ignore)
    shared = SingleFlight(far, patience=5.0)
    remembered = NegativeCaching(shared, misses=some_misses(clock))
    return ReadThrough(near, remembered, clock=clock)


FINDERS: dict[str, Make] = {
    "local": local,
    "sqlite": sqlite,
    "postgres": postgres,
    "redis": redis,
    "redis_sentinel": redis_sentinel,
    "redis_cluster": redis_cluster,
    "read_through": wrapped(lambda s, c: ReadThrough(a_local_store(c), s, clock=c)),
    "read_through_near_down": wrapped(lambda s, c: ReadThrough(_a_dead_shelf(), s, clock=c)),
    "beyond": wrapped(lambda s, c: SkipCache(a_local_store(c), s)),
    "beyond_near_down": wrapped(lambda s, _: SkipCache(_a_dead_shelf(), s)),
    "remember_misses": wrapped(lambda s, c: NegativeCaching(s, misses=some_misses(c))),
    "coalesce": wrapped(lambda s, _: SingleFlight(s, patience=5.0)),
    "confirmed": wrapped(lambda s, _: Batched(RedisTrust(s, store="shelf"))),
    "batched": wrapped(lambda s, _: Batched(s)),
    "guarded": wrapped(lambda s, c: Batched(Guarded(s, guard=a_guard(c)))),
    "metered": wrapped(lambda s, _: Metered(s, store="shelf", observe=ignore)),
    "metered_leaf": wrapped(lambda s, _: Batched(MeteredCache(s, store="shelf", observe=ignore))),
    "tower": wrapped(tower),
}


def _a_dead_shelf() -> Shelf:
    shelf = Shelf()
    shelf.down = True
    return shelf


# Hot stores


@asynccontextmanager
async def hot_local(_: pytest.FixtureRequest) -> AsyncIterator[HotRig]:
    clock = FakeClock(NOW)
    yield HotRig(a_local_store(clock), clock)


def hot_redis(wrap: Callable[[RedisStore, FakeClock], SessionCache]) -> MakeHot:
    @asynccontextmanager
    async def make(request: pytest.FixtureRequest) -> AsyncIterator[HotRig]:
        clock, leaf = FakeClock(NOW), redis_at(request.getfixturevalue("redis_url"))
        yield HotRig(wrap(leaf, clock), clock)
        await leaf.close()

    return make


def guarded_and_metered(leaf: RedisStore, clock: FakeClock) -> SessionCache:
    guarded = GuardedCache(leaf, guard=a_guard(clock))
    return BatchedCache(MeteredCache(guarded, store="redis", observe=ignore))


HOT_STORES: dict[str, MakeHot] = {
    "local": hot_local,
    "redis": hot_redis(lambda leaf, _: leaf),
    "redis_guarded": hot_redis(guarded_and_metered),
    "redis_confirmed": hot_redis(lambda leaf, _: BatchedCache(RedisTrust(leaf, store="redis"))),
}
