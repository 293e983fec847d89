"""A revocation while a store is away: what was acknowledged holds, whoever comes back first."""

import asyncio
import subprocess
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.scenarios.conftest import Deployment
from tests.scenarios.test_outages import PATIENCE, check, statuses_until
from tests.stores.waiting import until_answered
from tests.support.processes import python_module
from tests.support.sidegate import Created, Sidegate

BOUND = 5.0
"""Seconds after which a revocation that was acknowledged lets nobody in, whatever has failed."""


async def post(
    http: aiohttp.ClientSession, sidegate: Sidegate, path: str, document: object = None
) -> tuple[int, Any]:
    """Ask the admin door for a change."""
    url = f"http://127.0.0.1:{sidegate.admin_port}{path}"
    key = {"Authorization": f"Bearer {sidegate.admin_key}"}
    async with http.post(url, json=document or {}, headers=key) as answer:
        return answer.status, await answer.json()


async def revoke(http: aiohttp.ClientSession, sidegate: Sidegate, session: Created) -> int:
    path = f"/v1/sessions/{session.session_id}/revoke"
    status, _ = await post(http, sidegate, path, {"reason": "stolen"})
    return status


async def known_everywhere(http: aiohttp.ClientSession, deployment: Deployment) -> Created:
    """Begin a session that both instances, and Redis, know."""
    session = await asyncio.to_thread(deployment.one.create_session)
    for sidegate in (deployment.one, deployment.other):
        assert await check(http, sidegate, session.token) == 200
    return session


async def nobody_is_let_in(
    http: aiohttp.ClientSession, deployment: Deployment, session: Created, *, since: float
) -> None:
    """From the bound on, each check on each instance is refused, or nobody knows."""
    await asyncio.sleep(max(0.0, since + BOUND - time.monotonic()))
    for _ in range(20):
        for sidegate in (deployment.one, deployment.other):
            assert await check(http, sidegate, session.token) in (401, 503)


async def revocations(url: str, session: Created) -> list[tuple[str, str | None]]:
    """Return by whom and why, as the audit trail has it; nothing while Postgres is away."""
    try:
        connection = await asyncpg.connect(url)
    except (OSError, asyncpg.PostgresError):
        return []
    try:
        rows = await connection.fetch(
            "SELECT actor, reason FROM audit_events WHERE session_id = $1 AND action = 'revoke'",
            session.session_id,
        )
    finally:
        await connection.close()
    return [(row["actor"], row["reason"]) for row in rows]


async def written_down_once(deployment: Deployment, session: Created) -> None:
    async def written() -> bool:
        return bool(await revocations(deployment.postgres.url, session))

    await until_answered(written, within=30)
    assert await revocations(deployment.postgres.url, session) == [("key:tests", "stolen")]


async def make_read_only(url: str) -> None:
    """Let the database take no change any more, from anybody."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


def away(deployment: Deployment, store: str) -> None:
    {"redis": deployment.redis, "postgres": deployment.postgres}[store].kill()


def back(deployment: Deployment, store: str) -> None:
    {"redis": deployment.redis, "postgres": deployment.postgres}[store].restart()


@pytest.mark.parametrize("returns", [["redis", "postgres"], ["postgres", "redis"]])
@pytest.mark.parametrize(
    ("first", "then", "status"),
    [
        (["redis"], ["postgres"], 200),
        (["postgres"], ["redis"], 202),
        (["redis", "postgres"], [], 503),
    ],
)
async def test_what_was_acknowledged_holds_in_whatever_order_the_stores_come_back(
    deployment: Deployment,
    http: aiohttp.ClientSession,
    first: list[str],
    then: list[str],
    status: int,
    returns: list[str],
) -> None:
    session = await known_everywhere(http, deployment)
    for store in first:
        await asyncio.to_thread(away, deployment, store)
    assert await revoke(http, deployment.one, session) == status
    revoked_at = time.monotonic()
    if status != 503:  # every instance has heard of it before the other store is gone, too
        await statuses_until(http, deployment.other, session.token, last=401)
    for store in then:
        await asyncio.to_thread(away, deployment, store)
    for store in returns:
        await asyncio.to_thread(back, deployment, store)
    if status == 503:  # it did not happen, and nobody was logged out
        assert await statuses_until(http, deployment.other, session.token, last=200) <= {200, 503}
        assert await revocations(deployment.postgres.url, session) == []
        assert await revoke(http, deployment.other, session) == 200
        await statuses_until(http, deployment.one, session.token, last=401)
    else:
        await nobody_is_let_in(http, deployment, session, since=revoked_at)
        await written_down_once(deployment, session)
        for sidegate in (deployment.one, deployment.other):
            await statuses_until(http, sidegate, session.token, last=401)


async def test_a_revocation_without_postgres_is_everywhere_at_once(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session, bystander = [await known_everywhere(http, deployment) for _ in range(2)]
    await asyncio.to_thread(deployment.postgres.kill)
    assert await revoke(http, deployment.one, session) == 202
    revoked_at = time.monotonic()
    assert await check(http, deployment.one, session.token) == 401
    await statuses_until(http, deployment.other, session.token, last=401)
    assert time.monotonic() - revoked_at < 1.0
    assert await check(http, deployment.other, bystander.token) == 200


async def test_by_token_and_for_a_whole_user_it_can_be_pending_too(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    one, other = deployment.one, deployment.other
    by_token = await known_everywhere(http, deployment)
    phone, laptop = [
        await asyncio.to_thread(lambda: one.create_session(user_id="bob")) for _ in range(2)
    ]
    for session in (phone, laptop):
        assert await check(http, other, session.token) == 200
    await asyncio.to_thread(deployment.postgres.kill)
    status, answer = await post(
        http, other, "/v1/users/bob/revoke", {"except": laptop.session_id, "reason": "stolen"}
    )
    assert (status, answer) == (202, {"pending": True})
    url = f"http://127.0.0.1:{one.admin_port}/oauth2/revoke"
    key = {"Authorization": f"Bearer {one.admin_key}"}
    async with http.post(url, data={"token": by_token.token}, headers=key) as reply:
        assert reply.status == 202
    await statuses_until(http, one, phone.token, last=401)
    await statuses_until(http, other, by_token.token, last=401)
    assert await check(http, one, laptop.token) == 200
    await asyncio.to_thread(deployment.postgres.restart)
    await written_down_once(deployment, phone)
    assert await revocations(deployment.postgres.url, laptop) == []
    assert await check(http, one, laptop.token) == 200


async def test_the_command_line_can_leave_it_pending(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session = await known_everywhere(http, deployment)
    await asyncio.to_thread(deployment.postgres.kill)
    command = python_module("sidegate", "session", "revoke", session.session_id)
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=deployment.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pending: ")
    for sidegate in (deployment.one, deployment.other):
        await statuses_until(http, sidegate, session.token, last=401)


async def test_while_redis_lives_it_outlives_every_instance(
    deployment: Deployment, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    session = await known_everywhere(http, deployment)
    await asyncio.to_thread(deployment.postgres.kill)
    assert await revoke(http, deployment.one, session) == 202
    for sidegate in (deployment.one, deployment.other):
        await asyncio.to_thread(sidegate.server.kill)
    later = await asyncio.to_thread(lambda: instances(wait=False))
    await asyncio.to_thread(deployment.postgres.restart)
    await written_down_once(deployment, session)
    assert await statuses_until(http, later, session.token, last=401) <= {503, 401}


async def test_whoever_starts_knows_it_before_the_first_check(
    deployment: Deployment, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    """A truth that can be read says that the session lives, and nothing else says it does not."""
    session = await known_everywhere(http, deployment)
    await make_read_only(deployment.postgres.url)
    assert await revoke(http, deployment.one, session) == 202
    for _ in range(5):
        later = await asyncio.to_thread(instances)
        assert await check(http, later, session.token) == 401


async def test_the_sessions_of_a_postgres_that_is_back_are_not_let_in_before_it_knows(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    """The race between the first look-up and the writing down: nobody wins it."""
    many = [await known_everywhere(http, deployment) for _ in range(20)]
    await asyncio.to_thread(deployment.postgres.kill)
    for session in many:
        assert await revoke(http, deployment.one, session) == 202
    for session in many:
        await statuses_until(http, deployment.other, session.token, last=401)
    await asyncio.to_thread(deployment.redis.kill)  # whose copies nobody can ask any more
    restarting = asyncio.create_task(asyncio.to_thread(deployment.postgres.restart))
    deadline = time.monotonic() + PATIENCE
    while not restarting.done() or not await revocations(deployment.postgres.url, many[-1]):
        assert time.monotonic() < deadline
        for session in many:
            assert await check(http, deployment.other, session.token) in (401, 503)
    await restarting
    for session in many:
        await written_down_once(deployment, session)
