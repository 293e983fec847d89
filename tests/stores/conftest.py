"""A Redis store beside a client of the test's own, which knows nothing of sessions."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidegate.stores.redis.store import RedisStore
from tests.stores.sql.wire import Wire
from tests.support.processes import Server

Raw = Redis  # generic in other versions' stubs


@pytest.fixture
def unreadable() -> Counter[str]:
    """How many unreadable records were counted, by store."""
    return Counter()


def counting(url: str, unreadable: Counter[str], *, timeout: float = 5.0) -> RedisStore:
    """A store that has patience with a machine that is busy with other tests."""

    def count(store: str) -> None:
        unreadable[store] += 1

    return RedisStore(url, on_unreadable=count, timeout=timeout)


@pytest.fixture
async def store(redis_url: str, unreadable: Counter[str]) -> AsyncIterator[RedisStore]:
    """A store in the shared Redis, which is empty."""
    store = counting(redis_url, unreadable)
    yield store
    await store.close()


@pytest.fixture
async def mortal(own_redis: Server, unreadable: Counter[str]) -> AsyncIterator[RedisStore]:
    """A store in `own_redis`, which the test may hurt."""
    store = counting(own_redis.url, unreadable)
    yield store
    await store.close()


@pytest.fixture
async def hasty_mortal(own_redis: Server, unreadable: Counter[str]) -> AsyncIterator[RedisStore]:
    """A store in `own_redis` that waits no longer than it does in service."""
    store = counting(own_redis.url, unreadable, timeout=0.05)
    yield store
    await store.close()


@pytest.fixture
async def wire(redis_server: Server) -> AsyncIterator[Wire]:
    """A wire to the shared Redis."""
    async with Wire(redis_server.port) as wire:
        yield wire


@pytest.fixture
async def wired(wire: Wire, raw: Raw, unreadable: Counter[str]) -> AsyncIterator[RedisStore]:
    """A store at the end of `wire`; `raw` reaches the same Redis directly."""
    del raw  # it has emptied the Redis
    store = counting(f"redis://127.0.0.1:{wire.port}/0", unreadable)
    yield store
    await store.close()


@pytest.fixture
async def hasty_wired(wire: Wire, raw: Raw, unreadable: Counter[str]) -> AsyncIterator[RedisStore]:
    """As `wired`, but it waits no longer than it does in service."""
    del raw
    store = counting(f"redis://127.0.0.1:{wire.port}/0", unreadable, timeout=0.05)
    yield store
    await store.close()


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Raw]:
    """A client to the shared Redis."""
    async with client(redis_url) as raw:
        yield raw


@pytest.fixture
async def raw_mortal(own_redis: Server) -> AsyncIterator[Raw]:
    """A client to `own_redis`."""
    async with client(own_redis.url) as raw:
        yield raw


def client(url: str, **options: Any) -> AbstractAsyncContextManager[Raw]:
    """A client that tries nothing twice."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[Raw]:
        raw = Redis.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2, **options)
        try:
            yield raw
        finally:
            await raw.aclose()

    return connected()
