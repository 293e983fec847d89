"""Stores die and come back; the answers stay right."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import pytest

from tests.scenarios.conftest import Deployment
from tests.support.sidegate import Sidegate

# Longer than a copy in memory is believed (5 s), with room for a slow machine.
PATIENCE = 10.0


async def check(http: aiohttp.ClientSession, sidegate: Sidegate, token: str) -> int:
    """Ask the gate as Traefik would, and return the status."""
    url = f"http://{sidegate.address}/forward-auth"
    async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
        if answer.status == 503:
            assert answer.headers["Retry-After"] == "1"
            assert "WWW-Authenticate" not in answer.headers
        return answer.status


async def statuses_until(
    http: aiohttp.ClientSession, sidegate: Sidegate, token: str, last: int
) -> set[int]:
    """Check until the status is `last`, and return every status on the way."""
    seen: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while last not in seen:
        assert time.monotonic() < deadline, f"never {last}, but {seen}"
        seen.add(await check(http, sidegate, token))
    return seen


def tokens(sidegate: Sidegate, count: int) -> list[str]:
    return [sidegate.create_session(user_id=f"user-{n}")[0] for n in range(count)]


async def test_killing_redis_under_load_changes_no_answer(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    known = await asyncio.to_thread(tokens, deployment.one, 40)
    answers: list[int] = []
    under_load, killed = asyncio.Event(), asyncio.Event()

    async def load(sidegate: Sidegate, mine: list[str]) -> None:
        after = 0
        while after < 150:
            for token in mine:
                answers.append(await check(http, sidegate, token))
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
    answers += [await check(http, deployment.other, token) for token in fresh]
    assert set(answers) == {200}


async def test_with_both_stores_dead_the_known_pass_for_a_while_and_nobody_is_refused(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    warm, cold = await asyncio.to_thread(tokens, deployment.one, 2)
    assert await check(http, deployment.other, warm) == 200
    await asyncio.to_thread(deployment.redis.kill)
    await asyncio.to_thread(deployment.postgres.kill)
    assert await check(http, deployment.other, cold) == 503
    assert await statuses_until(http, deployment.other, warm, last=503) <= {200, 503}
    for _ in range(20):
        assert await check(http, deployment.other, warm) == 503


async def test_when_the_stores_are_back_so_is_everybody(
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


@pytest.mark.parametrize("redis", ["alive", "dead"])
async def test_a_revoked_token_is_refused_on_the_other_instance_within_a_second(
    redis: str, deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    if redis == "dead":
        await asyncio.to_thread(deployment.redis.kill)
    token, session_id = await asyncio.to_thread(deployment.one.create_session)
    assert await check(http, deployment.other, token) == 200
    await asyncio.to_thread(deployment.one.revoke_session, session_id)
    revoked_at = time.monotonic()
    assert await check(http, deployment.one, token) == 401
    await statuses_until(http, deployment.other, token, last=401)
    assert time.monotonic() - revoked_at < 1.0


async def test_a_session_revoked_while_redis_was_dead_stays_dead(
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


async def test_what_was_acknowledged_survives_the_death_of_everybody(
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


async def test_started_without_stores_it_waits_for_them_with_open_doors(
    deployment: Deployment, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    [token] = await asyncio.to_thread(tokens, deployment.one, 1)
    await asyncio.to_thread(deployment.redis.kill)
    await asyncio.to_thread(deployment.postgres.kill)
    early = await asyncio.to_thread(lambda: instances(wait=False))
    assert await early.ops(http, "/livez") == 200
    assert await early.ops(http, "/readyz") == 503
    assert await check(http, early, token) == 503
    await asyncio.to_thread(deployment.postgres.restart)
    assert await statuses_until(http, early, token, last=200) <= {200, 503}
    assert await early.ops(http, "/readyz") == 200


async def test_a_redis_outage_does_not_take_the_pod_out(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    await asyncio.to_thread(deployment.redis.kill)
    assert await deployment.one.ops(http, "/readyz") == 200


async def test_draining_says_so_and_answers_on(
    deployment: Deployment, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    [token] = await asyncio.to_thread(tokens, deployment.one, 1)
    leaving = await asyncio.to_thread(lambda: instances(SIDEGATE_DRAIN__DELAY="2s"))
    assert await check(http, leaving, token) == 200
    leaving.server.process.terminate()
    deadline = time.monotonic() + PATIENCE
    while await leaving.ops(http, "/readyz") != 503:
        assert time.monotonic() < deadline
    assert await check(http, leaving, token) == 200
    assert await asyncio.to_thread(leaving.server.process.wait, PATIENCE) == 0
