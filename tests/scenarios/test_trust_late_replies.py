"""A late reply of the database puts no copy of an ended session back into Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
import pytest

from tests.scenarios.trust_sites import (
    READ_REDIS,
    Client,
    assert_refused,
    execute,
    query_through,
    wait_until_quiet,
)
from tests.scenarios.trust_statements import UNPREPARED, HeldReplies
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until_async
from tests.support.processes import Server
from tests.support.sidegate import Created, Sidegate

TOUCH: Final = rb"UPDATE sessions SET last_seen_at"
LOOKUP: Final = rb"WHERE digest = ANY"

EAGER_TOUCHES: Final = {
    "SIDEGATE_SESSIONS__WEB__TOUCH_THRESHOLD": "1ms",
    "SIDEGATE_TOUCH__INTERVAL": "50ms",
}


@dataclass(frozen=True)
class Pair:
    """Two instances; the replies of Postgres to one of them are held back."""

    slow: Client
    other: Client
    proxy: TcpProxy
    redis: Server
    kept: Created

    async def revoke_and_empty(self, session: Created) -> float:
        """Revoke a session; empty Redis when all know of it. Return when it was revoked."""
        revoked_at = await self.other.revoke(session.session_id)
        await wait_until_quiet(self.redis)
        await execute(self.redis, "FLUSHALL")
        return revoked_at

    async def assert_refused(self, session: Created, *, since: float) -> None:
        """Expect both instances to refuse a session, and to allow another one."""
        clients = [self.slow, self.other]
        for client in clients:
            assert await client.check(self.kept.token) == 200
        await assert_refused(clients, {"ended": session.token}, since=since)


@pytest.fixture
async def pair(
    instances: Callable[..., Sidegate],
    own_redis: Server,
    own_postgres: Server,
    http: aiohttp.ClientSession,
) -> AsyncIterator[Pair]:
    async with TcpProxy(own_postgres.port) as proxy:
        settings = {**READ_REDIS, **EAGER_TOUCHES, "SIDEGATE_POSTGRES__DEADLINE": "5s"}
        through = {**settings, **UNPREPARED, **query_through(proxy)}
        slow, other = await asyncio.gather(
            asyncio.to_thread(instances, **through), asyncio.to_thread(instances, **settings)
        )
        kept = await Client(other, http).create()
        yield Pair(Client(slow, http), Client(other, http), proxy, own_redis, kept)


async def test_late_touch_of_a_request_restores_no_revoked_session(pair: Pair) -> None:
    session = await pair.other.create()
    held = HeldReplies(pair.proxy, TOUCH)
    touching = asyncio.create_task(pair.slow.post(f"/v1/sessions/{session.session_id}/touch"))
    await held.wait()
    revoked_at = await pair.revoke_and_empty(session)
    held.release()
    await touching
    await pair.assert_refused(session, since=revoked_at)


async def test_late_touch_of_a_check_restores_no_revoked_session(pair: Pair) -> None:
    session = await pair.other.create()
    held = HeldReplies(pair.proxy, TOUCH)
    assert await pair.slow.check(session.token) == 200
    await held.wait()
    revoked_at = await pair.revoke_and_empty(session)
    held.release()

    async def is_written() -> bool:
        return await pair.slow.read_counter("sidegate_touches_total", outcome="written") > 0

    await wait_until_async(is_written)
    await pair.assert_refused(session, since=revoked_at)


async def test_late_lookup_restores_no_revoked_session(pair: Pair) -> None:
    session = await pair.other.create()
    await execute(pair.redis, "FLUSHALL")  # so that the database is asked
    held = HeldReplies(pair.proxy, LOOKUP)
    checking = asyncio.create_task(pair.slow.check(session.token))
    await held.wait()
    revoked_at = await pair.revoke_and_empty(session)
    held.release()
    await checking
    await pair.assert_refused(session, since=revoked_at)
