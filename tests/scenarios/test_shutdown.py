"""An instance is stopped (SIGSTOP, a frozen machine) and goes on when everything has changed."""

import asyncio

import aiohttp
import asyncpg

from tests.scenarios.conftest import Deployment
from tests.scenarios.test_outages import check, statuses_until
from tests.scenarios.test_pending_revocations import known_everywhere, revoke
from tests.stores.waiting import until_answered

LONGER_THAN_MEMORY = 5.5
"""Seconds: what was in memory when it was stopped is not believed any more."""


async def generation(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        number: int = await connection.fetchval("SELECT number FROM hot_generation")
    finally:
        await connection.close()
    return number


async def test_it_does_not_believe_a_redis_that_was_told_nothing_meanwhile(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session = await known_everywhere(http, deployment)
    before = await generation(deployment.postgres.url)
    deployment.one.server.pause()
    deployment.redis.pause()
    assert await revoke(http, deployment.other, session) == 200

    async def given_up() -> bool:
        return await generation(deployment.postgres.url) > before

    await until_answered(given_up)
    await asyncio.to_thread(deployment.postgres.kill)
    deployment.redis.resume()
    await asyncio.sleep(LONGER_THAN_MEMORY)
    deployment.one.server.resume()
    for _ in range(100):
        assert await check(http, deployment.one, session.token) == 503
    await asyncio.to_thread(deployment.postgres.restart)
    assert await statuses_until(http, deployment.one, session.token, last=401) <= {503, 401}
