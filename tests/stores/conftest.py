"""Fixtures: a store in Redis, and a plain Redis client to look at and change its data."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.services.change_log import FakeChangeLog
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.processes import Server, temporary_directory
from tests.support.redis_trust import FollowedRedis
from tests.support.servers import REDIS_KINDS, start_redis

RawClient = Redis  # generic in other versions' stubs


@pytest.fixture
def unreadable() -> Counter[str]:
    """The number of unreadable records that were reported, by store."""
    return Counter()


def build_redis_store(
    url: str,
    unreadable: Counter[str],
    *,
    timeout: float = 5.0,
    change_log: FakeChangeLog | None = None,
) -> FollowedRedis:
    """Build a store, by default with a timeout that is long enough on a busy machine."""

    def count(store: str) -> None:
        unreadable[store] += 1

    return FollowedRedis(url, on_unreadable=count, timeout=timeout, change_log=change_log)


BuildStore = Callable[..., FollowedRedis]


@pytest.fixture
async def build_store(unreadable: Counter[str]) -> AsyncIterator[BuildStore]:
    """A function with the parameters of `build_redis_store`, whose stores are closed in the end."""
    stores = list[FollowedRedis]()

    def build(url: str, **options: Any) -> FollowedRedis:
        stores.append(build_redis_store(url, unreadable, **options))
        return stores[-1]

    yield build
    for store in stores:
        await store.close()


@pytest.fixture
async def store(redis_url: str, unreadable: Counter[str]) -> AsyncIterator[FollowedRedis]:
    """A store in the shared Redis, which is empty at the beginning."""
    store = build_redis_store(redis_url, unreadable)
    yield store
    await store.close()


@pytest.fixture(scope="session", params=REDIS_KINDS)
def any_redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A Redis of each kind for the whole run: do not stop it."""
    with temporary_directory() as directory:
        server = start_redis(directory, kind=request.param)
        yield server
        server.stop()


@pytest.fixture
async def any_raw_client(any_redis: Server) -> AsyncIterator[RawClient]:
    """A client of `any_redis`, which is empty at the beginning."""
    async with connect_raw(any_redis.url) as raw_client:
        await raw_client.flushall()
        yield raw_client


@pytest.fixture
async def any_store(
    any_redis: Server, any_raw_client: RawClient, unreadable: Counter[str]
) -> AsyncIterator[FollowedRedis]:
    """A store in `any_redis`, which has made a round."""
    del any_raw_client  # it has emptied the Redis
    store = build_redis_store(any_redis.url, unreadable)
    await store.follow()
    yield store
    await store.close()


@pytest.fixture
async def own_store(own_redis: Server, unreadable: Counter[str]) -> AsyncIterator[FollowedRedis]:
    """A store in `own_redis`, which the test may stop or reconfigure."""
    store = build_redis_store(own_redis.url, unreadable)
    yield store
    await store.close()


@pytest.fixture
async def own_store_short_timeout(
    own_redis: Server, unreadable: Counter[str]
) -> AsyncIterator[FollowedRedis]:
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
) -> AsyncIterator[FollowedRedis]:
    """A store that connects through `proxy`; `raw_client` reaches the same Redis directly."""
    del raw_client  # it has emptied the Redis
    store = build_redis_store(f"redis://127.0.0.1:{proxy.port}/0", unreadable)
    yield store
    await store.close()


@pytest.fixture
async def proxied_store_short_timeout(
    proxy: TcpProxy, raw_client: RawClient, unreadable: Counter[str]
) -> AsyncIterator[FollowedRedis]:
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
    # Writing with a timeout, the client library may lose the cancellation of a test's own timeout.
    options.setdefault("socket_timeout", None)

    @asynccontextmanager
    async def connection() -> AsyncIterator[RawClient]:
        raw_client = Redis.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2, **options)
        try:
            yield raw_client
        finally:
            await raw_client.aclose()

    return connection()
