"""An instance suspended by SIGSTOP resumes after a revocation it has missed."""

import asyncio

import aiohttp

from tests.scenarios.conftest import Deployment
from tests.scenarios.test_outages import check, statuses_until
from tests.scenarios.test_pending_revocations import create_cached_session, revoke

PAUSE = 5.5
"""Seconds: longer than a copy in memory is used, and than trust in Redis lasts without a round."""


async def test_resumed_instance_does_not_trust_a_redis_that_missed_the_revocation(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session = await create_cached_session(http, deployment)
    deployment.one.server.pause()
    deployment.redis.pause()
    assert await revoke(http, deployment.other, session) == 200
    await asyncio.to_thread(deployment.postgres.kill)
    deployment.redis.resume()
    await asyncio.sleep(PAUSE)
    deployment.one.server.resume()
    for _ in range(100):
        assert await check(http, deployment.one, session.token) == 503
    await asyncio.to_thread(deployment.postgres.restart)
    assert await statuses_until(http, deployment.one, session.token, last=401) <= {503, 401}
