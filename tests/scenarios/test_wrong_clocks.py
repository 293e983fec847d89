"""Commands and instances on machines whose clocks are wrong, with and without the database."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest
import redis.asyncio

from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, TokenKey
from tests.scenarios.conftest import Deployment
from tests.scenarios.test_outages import check, statuses_until, wait_for_readiness
from tests.scenarios.test_pending_revocations import assert_persisted_once, post, revoke
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until_async
from tests.support.fake_clock import fake_clock, find_fake_clock
from tests.support.processes import Server, module_command, skip_or_fail
from tests.support.sidegate import Created, Sidegate

MINUTE = timedelta(minutes=1)
BEHIND = "5 min behind"
AHEAD = "13 h ahead"  # sessions created now have expired
FAR_AHEAD = "8 days ahead"  # and are to be deleted
OFFSETS = {BEHIND: -5 * MINUTE, AHEAD: timedelta(hours=13), FAR_AHEAD: timedelta(days=8)}

# Seconds for each packet: a database that answers at once, or later than a reading of its time
# usually may take.
NEAR, FAR = 0.0, 0.15
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def wrong_clock(offset: str) -> Mapping[str, str]:
    """The environment of a process whose clock is wrong."""
    library = find_fake_clock()
    if library is None:
        skip_or_fail("libfaketime is not installed")
    return fake_clock(library, OFFSETS[offset])


async def run(*arguments: str, env: Mapping[str, str]) -> Done:
    command = module_command("sidegate", *arguments)
    return await asyncio.to_thread(
        subprocess.run, command, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def find_time_of_revocation(sidegate: Sidegate, session: Created) -> datetime:
    return datetime.fromisoformat(sidegate.show_session(session.session_id)["revoked_at"])


@pytest.fixture
async def database(
    delay: float, own_postgres: Server, deployment: Deployment
) -> AsyncIterator[Mapping[str, str]]:
    """The settings, without Redis, of a database that answers after twice `delay`."""
    async with TcpProxy(own_postgres.port) as proxy:
        proxy.delay = delay
        url = own_postgres.url.replace(f":{own_postgres.port}/", f":{proxy.port}/")
        environment = deployment.environment() | {"SIDEGATE_DATABASE_URL": url}
        del environment["SIDEGATE_REDIS_URL"]  # a revocation waits, and is not pending
        yield environment


@pytest.mark.parametrize(("offset", "delay"), [(BEHIND, NEAR), (AHEAD, FAR)])
async def test_command_revokes_at_the_time_of_the_database(
    deployment: Deployment,
    http: aiohttp.ClientSession,
    database: Mapping[str, str],
    wrong_clock: Mapping[str, str],
) -> None:
    one, environment = deployment.one, {**database, **wrong_clock}
    session = await asyncio.to_thread(one.create_session)
    of_bob = await asyncio.to_thread(lambda: one.create_session(user_id="bob"))
    single = await run("session", "revoke", session.session_id, env=environment)
    many = await run("session", "revoke", "--user", "bob", env=environment)
    assert (single.returncode, many.returncode) == (0, 0), (single.stderr, many.stderr)
    assert many.stdout == "revoked 1\n"
    for revoked in (session, of_bob):
        await statuses_until(http, one, revoked.token, last=401)
        at = await asyncio.to_thread(find_time_of_revocation, one, revoked)
        assert abs(at - datetime.now(UTC)) < MINUTE


@pytest.mark.parametrize(("offset", "delay"), [(FAR_AHEAD, NEAR), (FAR_AHEAD, FAR)])
async def test_cleanup_by_command_deletes_by_the_time_of_the_database(
    deployment: Deployment,
    http: aiohttp.ClientSession,
    database: Mapping[str, str],
    wrong_clock: Mapping[str, str],
) -> None:
    environment = {**database, **wrong_clock}
    session = await asyncio.to_thread(deployment.one.create_session)
    done = await run("cleanup", env=environment)
    assert (done.returncode, done.stdout) == (0, "0 sessions deleted\n"), done.stderr
    assert await check(http, deployment.one, session.token) == 200
    assert await asyncio.to_thread(deployment.other.show_session, session.session_id)


async def wait_for_difference(deployment: Deployment) -> None:
    """Wait until an instance has kept in Redis what the time is by the database."""
    async with redis.asyncio.Redis.from_url(deployment.redis.url) as client:

        async def is_kept() -> bool:
            return bool(await client.keys("*:clock"))

        await wait_until_async(is_kept)


async def create_without_database(deployment: Deployment) -> Created:
    """Create a session, and stop the database."""
    session = await asyncio.to_thread(deployment.one.create_session)
    await wait_for_difference(deployment)
    await asyncio.to_thread(deployment.postgres.kill)
    return session


@pytest.mark.parametrize("offset", [BEHIND, AHEAD])
async def test_pending_revocation_by_command_has_the_time_of_the_database(
    deployment: Deployment, http: aiohttp.ClientSession, wrong_clock: Mapping[str, str]
) -> None:
    session = await create_without_database(deployment)
    environment = {**deployment.environment(), **wrong_clock}
    done = await run("session", "revoke", session.session_id, env=environment)
    assert (done.returncode, done.stdout[:9]) == (0, "pending: "), done.stderr
    await assert_revoked_with_the_right_time(http, deployment, session)


@pytest.mark.parametrize("offset", [BEHIND])
async def test_pending_revocation_by_an_instance_that_never_reached_the_database(
    deployment: Deployment,
    http: aiohttp.ClientSession,
    instances: Callable[..., Sidegate],
    wrong_clock: Mapping[str, str],
) -> None:
    session = await create_without_database(deployment)
    later = await asyncio.to_thread(lambda: instances(wait=False, **wrong_clock))

    async def is_pending() -> bool:
        return await revoke(http, later, session) == 202

    await wait_until_async(is_pending)  # its clock is set
    await assert_revoked_with_the_right_time(http, deployment, session)
    await assert_persisted_once(deployment, session)


async def assert_revoked_with_the_right_time(
    http: aiohttp.ClientSession, deployment: Deployment, session: Created
) -> None:
    """Assert that no instance allows the session, until the revocation is persisted and after."""
    instances = (deployment.one, deployment.other)

    async def is_refused() -> bool:
        return 200 not in [await check(http, each, session.token) for each in instances]

    await wait_until_async(is_refused)
    await asyncio.to_thread(deployment.postgres.restart)
    for sidegate in instances:
        assert await statuses_until(http, sidegate, session.token, last=401) <= {401, 503}
    await wait_until_revoked(deployment.postgres.url, session)


async def wait_until_revoked(url: str, session: Created) -> None:
    """Wait until the revocation is persisted, and assert its time."""

    async def is_revoked() -> bool:
        connection = await asyncpg.connect(url)
        try:
            [row] = await connection.fetch(
                "SELECT created_at, revoked_at FROM sessions WHERE id = $1", session.session_id
            )
        finally:
            await connection.close()
        if row["revoked_at"] is None:
            return False
        assert row["created_at"] <= row["revoked_at"] < datetime.now(UTC) + MINUTE
        return True

    await wait_until_async(is_revoked, within=30)


@pytest.mark.parametrize("offset", [BEHIND, AHEAD])
async def test_revocation_is_refused_if_no_store_knows_the_time(
    deployment: Deployment,
    http: aiohttp.ClientSession,
    instances: Callable[..., Sidegate],
    wrong_clock: Mapping[str, str],
) -> None:
    session = await create_without_database(deployment)
    for sidegate in (deployment.one, deployment.other):
        await asyncio.to_thread(sidegate.server.kill)
    await asyncio.to_thread(deployment.redis.restart)
    environment = {**deployment.environment(), **wrong_clock}
    for which in ((session.session_id,), ("--user", "alice"), ("--all",)):
        done = await run("session", "revoke", *which, env=environment)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert done.stderr.startswith("Error: clock is unavailable: "), done.stderr
        assert "postgres is unavailable" in done.stderr
    done = await run("cleanup", env=environment)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    later = await asyncio.to_thread(lambda: instances(wait=False, **wrong_clock))
    assert await revoke(http, later, session) == 503
    async with redis.asyncio.Redis.from_url(deployment.redis.url) as client:
        assert await client.keys("*") == []
    await asyncio.to_thread(deployment.postgres.restart)
    await statuses_until(http, later, session.token, last=200)


def read_events(sidegate: Sidegate) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in sidegate.server.child.log.splitlines() if line.startswith("{")
    ]


async def test_instance_that_knows_no_time_answers_no_check_and_recovers(
    deployment: Deployment,
    http: aiohttp.ClientSession,
    instances: Callable[..., Sidegate],
    shared_settings: dict[str, str],
) -> None:
    """Without a time only what is no token of ours can be denied."""
    session = await create_without_database(deployment)
    await asyncio.to_thread(deployment.one.server.kill)
    await asyncio.to_thread(deployment.other.server.kill)
    await asyncio.to_thread(deployment.redis.kill)
    jobs = ("CLEANUP", "AUDIT", "ANALYTICS")
    often = {f"SIDEGATE_{job}__INTERVAL": "100ms" for job in jobs}
    later = await asyncio.to_thread(lambda: instances(wait=False, **often))
    ring = KeyRing([TokenKey.parse(shared_settings["SIDEGATE_TOKEN__KEYS"])])
    unknown = ring.mint(SessionType.WEB).text
    forged = KeyRing([TokenKey.generate()]).mint(SessionType.WEB).text
    for token, status in (("x", 401), (forged, 401), (unknown, 503), (session.token, 503)):
        for _ in range(3):
            assert await check(http, later, token) == status
    assert await later.get_ops_status(http, "/livez") == 200
    assert await later.get_ops_status(http, "/readyz") == 503
    path = f"/v1/sessions/{session.session_id}"
    for document in ({"user_id": "alice"}, {}):
        status, problem = await post(http, later, "/v1/sessions" if document else f"{path}/revoke")
        assert (status, problem["code"]) in [(503, "store_unavailable"), (400, "invalid_request")]

    async def have_jobs_failed() -> bool:
        failing = {each.get("job") for each in read_events(later)}
        return failing >= {"cleanup", "audit_seal", "audit_retention", "analytics"}

    await wait_until_async(have_jobs_failed, within=30)
    await asyncio.to_thread(deployment.postgres.restart)
    await asyncio.to_thread(deployment.redis.restart)
    await statuses_until(http, later, session.token, last=200)
    await wait_for_readiness(http, later, status=200)
    names = {each["event"] for each in read_events(later)}
    assert not names & {"background task failed", "unhandled exception"}
