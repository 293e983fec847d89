"""Copies in Redis do not accumulate: their number is bounded, and each expires within an hour."""

import asyncio
from collections.abc import Callable
from typing import Final

import aiohttp

from tests.scenarios.trust_sites import (
    READ_REDIS,
    Client,
    disconnect,
    execute,
    lead_to,
    map_concurrently,
    wait_until_served_from_redis,
)
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.processes import Server
from tests.support.sidegate import Sidegate

_SESSIONS: Final = 100
_OUTAGES: Final = 4

# Seconds.
_MAX_EXPIRY: Final = 3600


async def test_changes_that_redis_missed_leave_no_unreachable_copies(
    instances: Callable[..., Sidegate], own_redis: Server, http: aiohttp.ClientSession
) -> None:
    async with TcpProxy(own_redis.port) as proxy:
        client = Client(await asyncio.to_thread(instances, **READ_REDIS, **lead_to(proxy)), http)
        users = [f"user-{number}" for number in range(_SESSIONS)]
        sessions = await map_concurrently(client.create, users)
        tokens = [session.token for session in sessions]
        for _ in range(_OUTAGES):
            revoked = await client.create()
            disconnect(proxy)
            await client.revoke(revoked.session_id)
            assert set(await map_concurrently(client.check, tokens)) == {200}
            proxy.refuse_new = False
            await wait_until_served_from_redis(client, tokens[0])
            assert set(await map_concurrently(client.check, tokens)) == {200}
        # There are a few other keys: the tombstones, a seal.
        assert await execute(own_redis, "DBSIZE") < 1.5 * _SESSIONS


async def test_every_copy_expires_within_an_hour(
    instances: Callable[..., Sidegate], own_redis: Server, http: aiohttp.ClientSession
) -> None:
    """A session lasts longer. What keeps no copies, such as a seal, need not expire."""
    client = Client(await asyncio.to_thread(instances, **READ_REDIS), http)
    sessions = [await client.create(f"user-{number}") for number in range(10)]
    second = await client.refresh(sessions[0].token)
    for token in (second, *(session.token for session in sessions[1:])):
        assert await client.check(token) == 200
    await wait_until_served_from_redis(client, second)
    keys = await execute(own_redis, "KEYS", "sidegate:v2:*")
    expiries = [await execute(own_redis, "TTL", key) for key in keys]
    assert len([expiry for expiry in expiries if expiry > 0]) >= len(sessions)
    assert max(expiries) <= _MAX_EXPIRY
    assert expiries.count(-1) <= 1
