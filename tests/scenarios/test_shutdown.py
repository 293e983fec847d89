"""An instance suspended by SIGSTOP resumes after a revocation it has missed."""

import asyncio

import aiohttp
import asyncpg

from tests.scenarios.conftest import Deployment
from tests.scenarios.test_outages import check, statuses_until
from tests.scenarios.test_pending_revocations import create_cached_session, revoke
from tests.stores.waiting import wait_until_async

PAUSE = 5.5
"""Seconds: longer than a copy in memory is used, and than a silent subscription is trusted."""


async def read_generation(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        number: int = await connection.fetchval("SELECT number FROM cache_generation")
    finally:
        await connection.close()
    return number


async def test_resumed_instance_distrusts_a_redis_that_missed_the_revocation(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session = await create_cached_session(http, deployment)
    before = await read_generation(deployment.postgres.url)
    deployment.one.server.pause()
    deployment.redis.pause()
    assert await revoke(http, deployment.other, session) == 200

    async def generation_advanced() -> bool:
        return await read_generation(deployment.postgres.url) > before

    await wait_until_async(generation_advanced)
    await asyncio.to_thread(deployment.postgres.kill)
    deployment.redis.resume()
    await asyncio.sleep(PAUSE)
    deployment.one.server.resume()
    for _ in range(100):
        assert await check(http, deployment.one, session.token) == 503
    await asyncio.to_thread(deployment.postgres.restart)
    assert await statuses_until(http, deployment.one, session.token, last=401) <= {503, 401}
