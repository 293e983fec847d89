"""Store outages: responses stay correct during and after them."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import pytest

from tests.scenarios.conftest import Deployment
from tests.support.sidegate import Sidegate

# Seconds. Longer than a copy in memory is trusted (5 s), with room for a slow machine.
TIMEOUT = 10.0
# Seconds between two checks of a token, so that the instances get the CPU.
CHECK_INTERVAL = 0.005


async def check(http: aiohttp.ClientSession, sidegate: Sidegate, token: str) -> int:
    """Send a check as Traefik does, and return the status."""
    url = f"http://{sidegate.address}/forward-auth"
    async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
        if response.status == 503:
            assert response.headers["Retry-After"] == "1"
            assert "WWW-Authenticate" not in response.headers
        return response.status


async def statuses_until(
    http: aiohttp.ClientSession, sidegate: Sidegate, token: str, last: int
) -> set[int]:
    """Check until the status is `last`, and return every status on the way."""
    statuses: set[int] = set()
    deadline = time.monotonic() + TIMEOUT
    while last not in statuses:
        assert time.monotonic() < deadline, f"never {last}, but {statuses}"
        statuses.add(await check(http, sidegate, token))
        await asyncio.sleep(CHECK_INTERVAL)
    return statuses


async def wait_for_readiness(
    http: aiohttp.ClientSession, sidegate: Sidegate, *, status: int
) -> None:
    """Poll /readyz, which remembers the answer of a store for half a second."""
    deadline = time.monotonic() + TIMEOUT
    while await sidegate.get_ops_status(http, "/readyz") != status:
        assert time.monotonic() < deadline
        await asyncio.sleep(CHECK_INTERVAL)


def tokens(sidegate: Sidegate, count: int) -> list[str]:
    return [sidegate.create_session(user_id=f"user-{n}")[0] for n in range(count)]


async def test_redis_outage_under_load_changes_no_response(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    known = await asyncio.to_thread(tokens, deployment.one, 40)
    statuses: list[int] = []
    under_load, killed = asyncio.Event(), asyncio.Event()

    async def load(sidegate: Sidegate, mine: list[str]) -> None:
        after = 0
        while after < 150:
            for token in mine:
                statuses.append(await check(http, sidegate, token))
            under_load.set()
            after += killed.is_set() * len(mine)

    half = [known[:20], known[20:]]
    work = [
        asyncio.create_task(load(sidegate, mine))
        for sidegate in (deployment.one, deployment.other)
        for mine in half
    ]
    await under_load.wait()
    await asyncio.to_thread(deployment.redis.kill)
    killed.set()
    await asyncio.gather(*work)
    fresh = await asyncio.to_thread(tokens, deployment.one, 5)  # creating needs no Redis either
    statuses += [await check(http, deployment.other, token) for token in fresh]
    assert set(statuses) == {200}


async def test_without_stores_cached_sessions_are_allowed_until_they_are_stale(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    cached, uncached = await asyncio.to_thread(tokens, deployment.one, 2)
    assert await check(http, deployment.other, cached) == 200
    await asyncio.to_thread(deployment.redis.kill)
    await asyncio.to_thread(deployment.postgres.kill)
    assert await check(http, deployment.other, uncached) == 503
    assert await statuses_until(http, deployment.other, cached, last=503) <= {200, 503}
    for _ in range(20):
        assert await check(http, deployment.other, cached) == 503


async def test_sessions_are_allowed_again_after_an_outage_of_both_stores(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    [token] = await asyncio.to_thread(tokens, deployment.one, 1)
    await asyncio.to_thread(deployment.redis.kill)
    await asyncio.to_thread(deployment.postgres.kill)
    await statuses_until(http, deployment.one, token, last=503)
    await asyncio.to_thread(deployment.postgres.restart)
    assert await statuses_until(http, deployment.one, token, last=200) <= {200, 503}
    await asyncio.to_thread(deployment.redis.restart)
    assert await check(http, deployment.other, token) == 200


@pytest.mark.parametrize("redis", ["up", "down"])
async def test_revocation_reaches_the_other_instance_within_a_second(
    redis: str, deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    if redis == "down":
        await asyncio.to_thread(deployment.redis.kill)
    token, session_id = await asyncio.to_thread(deployment.one.create_session)
    assert await check(http, deployment.other, token) == 200
    await asyncio.to_thread(deployment.one.revoke_session, session_id)
    revoked_at = time.monotonic()
    assert await check(http, deployment.one, token) == 401
    await statuses_until(http, deployment.other, token, last=401)
    assert time.monotonic() - revoked_at < 1.0


async def test_session_revoked_during_a_redis_outage_stays_revoked(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    token, session_id = await asyncio.to_thread(deployment.one.create_session)
    assert await check(http, deployment.other, token) == 200
    await asyncio.to_thread(deployment.redis.kill)
    await asyncio.to_thread(deployment.one.revoke_session, session_id)
    await asyncio.to_thread(deployment.redis.restart)
    await statuses_until(http, deployment.other, token, last=401)
    for _ in range(20):
        assert await check(http, deployment.other, token) == 401


async def test_acknowledged_changes_survive_a_crash_of_all_servers(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    kept, _ = await asyncio.to_thread(deployment.one.create_session)
    ended, session_id = await asyncio.to_thread(deployment.one.create_session)
    await asyncio.to_thread(deployment.one.revoke_session, session_id)
    for server in (deployment.one.server, deployment.postgres, deployment.redis):
        await asyncio.to_thread(server.kill)
    for server in (deployment.redis, deployment.postgres, deployment.one.server):
        await asyncio.to_thread(server.restart)
    assert await check(http, deployment.one, kept) == 200
    assert await check(http, deployment.one, ended) == 401


async def test_instance_started_without_stores_responds_503_until_they_are_up(
    deployment: Deployment, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    [token] = await asyncio.to_thread(tokens, deployment.one, 1)
    await asyncio.to_thread(deployment.redis.kill)
    await asyncio.to_thread(deployment.postgres.kill)
    early = await asyncio.to_thread(lambda: instances(wait=False))
    assert await early.get_ops_status(http, "/livez") == 200
    assert await early.get_ops_status(http, "/readyz") == 503
    assert await check(http, early, token) == 503
    await asyncio.to_thread(deployment.postgres.restart)
    assert await statuses_until(http, early, token, last=200) <= {200, 503}
    await wait_for_readiness(http, early, status=200)


async def test_redis_outage_keeps_the_instance_ready(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    await asyncio.to_thread(deployment.redis.kill)
    assert await deployment.one.get_ops_status(http, "/readyz") == 200


async def test_draining_instance_is_not_ready_but_still_responds(
    deployment: Deployment, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    [token] = await asyncio.to_thread(tokens, deployment.one, 1)
    leaving = await asyncio.to_thread(lambda: instances(SIDEGATE_DRAIN__DELAY="2s"))
    assert await check(http, leaving, token) == 200
    leaving.server.process.terminate()
    await wait_for_readiness(http, leaving, status=503)
    assert await check(http, leaving, token) == 200
    assert await asyncio.to_thread(leaving.server.process.wait, TIMEOUT) == 0
