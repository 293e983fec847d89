"""Fixtures: a RedisStore, and a plain Redis client to look at and change its data."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidegate.stores.redis.store import RedisStore
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.processes import Server
from tests.support.redis_trust import build_redis_trust

RawClient = Redis  # generic in other versions' stubs


@pytest.fixture
def unreadable() -> Counter[str]:
    """The number of unreadable records that were reported, by store."""
    return Counter()


def build_redis_store(url: str, unreadable: Counter[str], *, timeout: float = 5.0) -> RedisStore:
    """Build a store, by default with a timeout that is long enough on a busy machine."""

    def count(store: str) -> None:
        unreadable[store] += 1

    return RedisStore(url, trust=build_redis_trust(), on_unreadable=count, timeout=timeout)


@pytest.fixture
async def store(redis_url: str, unreadable: Counter[str]) -> AsyncIterator[RedisStore]:
    """A store in the shared Redis, which is empty at the beginning."""
    store = build_redis_store(redis_url, unreadable)
    yield store
    await store.close()


@pytest.fixture
async def own_store(own_redis: Server, unreadable: Counter[str]) -> AsyncIterator[RedisStore]:
    """A store in `own_redis`, which the test may stop or reconfigure."""
    store = build_redis_store(own_redis.url, unreadable)
    yield store
    await store.close()


@pytest.fixture
async def own_store_short_timeout(
    own_redis: Server, unreadable: Counter[str]
) -> AsyncIterator[RedisStore]:
    """A store in `own_redis` with the timeout of production."""
    store = build_redis_store(own_redis.url, unreadable, timeout=0.05)
    yield store
    await store.close()


@pytest.fixture
async def proxy(redis_server: Server) -> AsyncIterator[TcpProxy]:
    """A TCP proxy in front of the shared Redis."""
    async with TcpProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def proxied_store(
    proxy: TcpProxy, raw_client: RawClient, unreadable: Counter[str]
) -> AsyncIterator[RedisStore]:
    """A store that connects through `proxy`; `raw_client` reaches the same Redis directly."""
    del raw_client  # it has emptied the Redis
    store = build_redis_store(f"redis://127.0.0.1:{proxy.port}/0", unreadable)
    yield store
    await store.close()


@pytest.fixture
async def proxied_store_short_timeout(
    proxy: TcpProxy, raw_client: RawClient, unreadable: Counter[str]
) -> AsyncIterator[RedisStore]:
    """As `proxied_store`, with the timeout of production."""
    del raw_client
    store = build_redis_store(f"redis://127.0.0.1:{proxy.port}/0", unreadable, timeout=0.05)
    yield store
    await store.close()


@pytest.fixture
async def raw_client(redis_url: str) -> AsyncIterator[RawClient]:
    """A client of the shared Redis."""
    async with connect_raw(redis_url) as raw_client:
        yield raw_client


@pytest.fixture
async def own_raw_client(own_redis: Server) -> AsyncIterator[RawClient]:
    """A client of `own_redis`."""
    async with connect_raw(own_redis.url) as raw_client:
        yield raw_client


def connect_raw(url: str, **options: Any) -> AbstractAsyncContextManager[RawClient]:
    """Connect a client without retries."""

    @asynccontextmanager
    async def connection() -> AsyncIterator[RawClient]:
        raw_client = Redis.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2, **options)
        try:
            yield raw_client
        finally:
            await raw_client.aclose()

    return connection()
