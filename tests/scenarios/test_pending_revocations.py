"""Revocations during store outages stay in force, in any order of recovery."""

import asyncio
import subprocess
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.scenarios.conftest import Deployment
from tests.scenarios.test_outages import TIMEOUT, check, statuses_until
from tests.stores.waiting import wait_until_async
from tests.support.processes import module_command
from tests.support.sidegate import Created, Sidegate

BOUND = 5.0
"""Seconds after which an acknowledged revocation is in force, whichever store is unavailable."""


async def post(
    http: aiohttp.ClientSession, sidegate: Sidegate, path: str, document: object = None
) -> tuple[int, Any]:
    """Send a request to the admin API."""
    url = f"http://127.0.0.1:{sidegate.admin_port}{path}"
    key = {"Authorization": f"Bearer {sidegate.admin_key}"}
    async with http.post(url, json=document or {}, headers=key) as response:
        return response.status, await response.json()


async def revoke(http: aiohttp.ClientSession, sidegate: Sidegate, session: Created) -> int:
    path = f"/v1/sessions/{session.session_id}/revoke"
    status, _ = await post(http, sidegate, path, {"reason": "stolen"})
    return status


async def create_cached_session(http: aiohttp.ClientSession, deployment: Deployment) -> Created:
    """Create a session that both instances and Redis have cached."""
    session = await asyncio.to_thread(deployment.one.create_session)
    for sidegate in (deployment.one, deployment.other):
        assert await check(http, sidegate, session.token) == 200
    return session


async def assert_denied_after_bound(
    http: aiohttp.ClientSession, deployment: Deployment, session: Created, *, since: float
) -> None:
    """From the bound on, each check on each instance gets 401 or 503."""
    await asyncio.sleep(max(0.0, since + BOUND - time.monotonic()))
    for _ in range(20):
        for sidegate in (deployment.one, deployment.other):
            assert await check(http, sidegate, session.token) in (401, 503)


async def revocations(url: str, session: Created) -> list[tuple[str, str | None]]:
    """Return actor and reason from the audit trail; empty if Postgres is down."""
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


async def assert_persisted_once(deployment: Deployment, session: Created) -> None:
    async def persisted() -> bool:
        return bool(await revocations(deployment.postgres.url, session))

    await wait_until_async(persisted, within=30)
    assert await revocations(deployment.postgres.url, session) == [("key:tests", "stolen")]


async def make_read_only(url: str) -> None:
    """Make the database read-only, for open connections too."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


def stop(deployment: Deployment, store: str) -> None:
    {"redis": deployment.redis, "postgres": deployment.postgres}[store].kill()


def restart(deployment: Deployment, store: str) -> None:
    {"redis": deployment.redis, "postgres": deployment.postgres}[store].restart()


@pytest.mark.parametrize("restarted", [["redis", "postgres"], ["postgres", "redis"]])
@pytest.mark.parametrize(
    ("stopped_first", "stopped_later", "status"),
    [
        (["redis"], ["postgres"], 200),
        (["postgres"], ["redis"], 202),
        (["redis", "postgres"], [], 503),
    ],
)
async def test_acknowledged_revocation_survives_any_order_of_store_recovery(
    deployment: Deployment,
    http: aiohttp.ClientSession,
    stopped_first: list[str],
    stopped_later: list[str],
    status: int,
    restarted: list[str],
) -> None:
    session = await create_cached_session(http, deployment)
    for store in stopped_first:
        await asyncio.to_thread(stop, deployment, store)
    assert await revoke(http, deployment.one, session) == status
    revoked_at = time.monotonic()
    if status != 503:  # it reaches every instance before the other store stops
        await statuses_until(http, deployment.other, session.token, last=401)
    for store in stopped_later:
        await asyncio.to_thread(stop, deployment, store)
    for store in restarted:
        await asyncio.to_thread(restart, deployment, store)
    if status == 503:  # nothing was revoked
        assert await statuses_until(http, deployment.other, session.token, last=200) <= {200, 503}
        assert await revocations(deployment.postgres.url, session) == []
        assert await revoke(http, deployment.other, session) == 200
        await statuses_until(http, deployment.one, session.token, last=401)
    else:
        await assert_denied_after_bound(http, deployment, session, since=revoked_at)
        await assert_persisted_once(deployment, session)
        for sidegate in (deployment.one, deployment.other):
            await statuses_until(http, sidegate, session.token, last=401)


async def test_revocation_without_postgres_reaches_all_instances_within_a_second(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session, bystander = [await create_cached_session(http, deployment) for _ in range(2)]
    await asyncio.to_thread(deployment.postgres.kill)
    assert await revoke(http, deployment.one, session) == 202
    revoked_at = time.monotonic()
    assert await check(http, deployment.one, session.token) == 401
    await statuses_until(http, deployment.other, session.token, last=401)
    assert time.monotonic() - revoked_at < 1.0
    assert await check(http, deployment.other, bystander.token) == 200


async def test_revocation_by_token_or_for_a_user_can_be_pending(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    one, other = deployment.one, deployment.other
    by_token = await create_cached_session(http, deployment)
    phone, laptop = [
        await asyncio.to_thread(lambda: one.create_session(user_id="bob")) for _ in range(2)
    ]
    for session in (phone, laptop):
        assert await check(http, other, session.token) == 200
    await asyncio.to_thread(deployment.postgres.kill)
    status, body = await post(
        http, other, "/v1/users/bob/revoke", {"except": laptop.session_id, "reason": "stolen"}
    )
    assert (status, body) == (202, {"pending": True})
    url = f"http://127.0.0.1:{one.admin_port}/oauth2/revoke"
    key = {"Authorization": f"Bearer {one.admin_key}"}
    async with http.post(url, data={"token": by_token.token}, headers=key) as response:
        assert response.status == 202
    await statuses_until(http, one, phone.token, last=401)
    await statuses_until(http, other, by_token.token, last=401)
    assert await check(http, one, laptop.token) == 200
    await asyncio.to_thread(deployment.postgres.restart)
    await assert_persisted_once(deployment, phone)
    assert await revocations(deployment.postgres.url, laptop) == []
    assert await check(http, one, laptop.token) == 200


async def test_revocation_by_command_line_can_be_pending(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    session = await create_cached_session(http, deployment)
    await asyncio.to_thread(deployment.postgres.kill)
    command = module_command("sidegate", "session", "revoke", session.session_id)
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


async def test_pending_revocation_in_redis_survives_a_crash_of_all_instances(
    deployment: Deployment, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    session = await create_cached_session(http, deployment)
    await asyncio.to_thread(deployment.postgres.kill)
    assert await revoke(http, deployment.one, session) == 202
    for sidegate in (deployment.one, deployment.other):
        await asyncio.to_thread(sidegate.server.kill)
    later = await asyncio.to_thread(lambda: instances(wait=False))
    await asyncio.to_thread(deployment.postgres.restart)
    await assert_persisted_once(deployment, session)
    assert await statuses_until(http, later, session.token, last=401) <= {503, 401}


async def test_starting_instance_reads_pending_revocations_before_serving(
    deployment: Deployment, instances: Callable[..., Sidegate], http: aiohttp.ClientSession
) -> None:
    """The read-only database has the session as active; Redis has the revocation."""
    session = await create_cached_session(http, deployment)
    await make_read_only(deployment.postgres.url)
    assert await revoke(http, deployment.one, session) == 202
    for _ in range(5):
        later = await asyncio.to_thread(instances)
        assert await check(http, later, session.token) == 401


async def test_recovered_postgres_allows_no_session_with_a_pending_revocation(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    """No lookup is allowed between the recovery of Postgres and persisting."""
    sessions = [await create_cached_session(http, deployment) for _ in range(20)]
    await asyncio.to_thread(deployment.postgres.kill)
    for session in sessions:
        assert await revoke(http, deployment.one, session) == 202
    for session in sessions:
        await statuses_until(http, deployment.other, session.token, last=401)
    await asyncio.to_thread(deployment.redis.kill)  # so that lookups go to Postgres
    restarting = asyncio.create_task(asyncio.to_thread(deployment.postgres.restart))
    deadline = time.monotonic() + TIMEOUT
    while not restarting.done() or not await revocations(deployment.postgres.url, sessions[-1]):
        assert time.monotonic() < deadline
        for session in sessions:
            assert await check(http, deployment.other, session.token) in (401, 503)
    await restarting
    for session in sessions:
        await assert_persisted_once(deployment, session)
