"""Changes made by one instance reach the others through any feed that is left."""

import asyncio
import re
import time
from collections.abc import Callable

import aiohttp
import pytest

from tests.scenarios.test_outages import check, statuses_until
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until_async
from tests.support.processes import Server
from tests.support.sidegate import Sidegate

# No polling and no expiry within a test: only a notification can bring a change.
NO_POLLING = {
    "SIDEGATE_CHANGE_POLLER__INTERVAL": "1h",
    "SIDEGATE_MEMORY__MAX_AGE": "1h",
    "SIDEGATE_NEGATIVE_CACHE__MAX_AGE": "1h",
}


async def gauge(http: aiohttp.ClientSession, sidegate: Sidegate, series: str) -> float | None:
    async with http.get(f"http://127.0.0.1:{sidegate.ops_port}/metrics") as response:
        found = re.search(rf"^{re.escape(series)} (\S+)$", await response.text(), re.MULTILINE)
    return None if found is None else float(found[1])


async def wait_for_feed(http: aiohttp.ClientSession, sidegate: Sidegate, feed: str) -> None:
    async def up() -> bool:
        return await gauge(http, sidegate, f'sidegate_feed_up{{feed="{feed}"}}') == 1

    await wait_until_async(up, within=30)


async def test_without_redis_postgres_notifies_immediately(
    instances: Callable[..., Sidegate], own_redis: Server, http: aiohttp.ClientSession
) -> None:
    one, other = await asyncio.to_thread(lambda: (instances(**NO_POLLING), instances(**NO_POLLING)))
    await asyncio.to_thread(own_redis.kill)
    await wait_for_feed(http, other, "postgres")
    latencies = []
    for _ in range(10):
        token, session_id = await asyncio.to_thread(one.create_session)
        assert await check(http, other, token) == 200
        await asyncio.to_thread(one.revoke_session, session_id)
        revoked_at = time.monotonic()
        await statuses_until(http, other, token, last=401)
        latencies.append(time.monotonic() - revoked_at)
    assert min(latencies) < 0.25  # the minimum, since the machine may be busy


async def test_with_postgres_listen_off_redis_notifies_immediately(
    instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    settings = NO_POLLING | {"SIDEGATE_POSTGRES__LISTEN": "false"}
    one, other = await asyncio.to_thread(lambda: (instances(**settings), instances(**settings)))
    await wait_for_feed(http, other, "redis")
    assert await gauge(http, other, 'sidegate_feed_up{feed="postgres"}') is None
    token, session_id = await asyncio.to_thread(one.create_session)
    assert await check(http, other, token) == 200
    await asyncio.to_thread(one.revoke_session, session_id)
    await statuses_until(http, other, token, last=401)


async def test_postgres_listen_url_is_used_for_notifications(
    instances: Callable[..., Sidegate],
    own_redis: Server,
    own_postgres: Server,
    http: aiohttp.ClientSession,
) -> None:
    async with TcpProxy(own_postgres.port) as proxy:
        direct = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        settings = NO_POLLING | {"SIDEGATE_POSTGRES__LISTEN_URL": direct}
        one, other = await asyncio.to_thread(
            lambda: (instances(**NO_POLLING), instances(**settings))
        )
        await asyncio.to_thread(own_redis.kill)
        await wait_for_feed(http, other, "postgres")
        token, session_id = await asyncio.to_thread(one.create_session)
        assert await check(http, other, token) == 200
        await asyncio.to_thread(one.revoke_session, session_id)
        await statuses_until(http, other, token, last=401)


@pytest.mark.parametrize("feed", ["redis", "postgres"])
async def test_feed_lag_is_exported(
    feed: str, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    sidegate = await asyncio.to_thread(instances)

    async def measured() -> bool:
        lag = await gauge(http, sidegate, f'sidegate_feed_lag_seconds{{feed="{feed}"}}')
        return lag is not None and 0 < lag < 10

    await wait_until_async(measured, within=30)
