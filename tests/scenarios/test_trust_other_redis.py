"""Ended sessions stay ended if the address of Redis leads to another Redis, and back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import aiohttp
import pytest

from tests.scenarios.trust_sites import (
    NO_GRACE,
    READ_REDIS,
    Client,
    SessionSet,
    Subscriptions,
    assert_refused,
    execute,
    lead_to,
    open_redis,
    wait_until_quiet,
    wait_until_served_from_redis,
)
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.stores.waiting import wait_until_async
from tests.support.processes import Server
from tests.support.sidegate import Created, Sidegate

StartInstance = Callable[..., Sidegate]

# Sessions that end in one burst, so that several connections are used.
_BURST: Final = 30

Switch = Callable[[TcpProxy, Server, Subscriptions], None]


@pytest.fixture
def other_redis() -> Iterator[Server]:
    """An empty Redis, to which the address of the first one leads for a while."""
    with open_redis() as server:
        yield server


@pytest.fixture
async def proxy(own_redis: Server) -> AsyncIterator[TcpProxy]:
    """The address of Redis. It leads to the first one initially."""
    async with TcpProxy(own_redis.port) as proxy:
        yield proxy


def switch_all(proxy: TcpProxy, server: Server, _: Subscriptions) -> None:
    """Let the address lead to another server, and cut all connections."""
    proxy.set_target(server.port)
    proxy.reset_connections()


def switch_commands(proxy: TcpProxy, server: Server, subscriptions: Subscriptions) -> None:
    """As `switch_all`, but subscriptions stay on the server that they lead to."""
    proxy.set_target(server.port)
    subscriptions.reset_others()


async def wait_until_filled(client: Client, session: Created, server: Server) -> None:
    """Return when an instance that checks a session stores copies in a Redis."""

    async def is_filled() -> bool:
        await client.check(session.token)
        return bool(await execute(server, "DBSIZE"))

    await wait_until_async(is_filled, within=15)


@pytest.mark.parametrize("restarts", [True, False], ids=["restarted", "running"])
@pytest.mark.parametrize("switch", [switch_all, switch_commands], ids=["all", "commands"])
async def test_sessions_ended_while_the_address_led_elsewhere_stay_refused(
    switch: Switch,
    restarts: bool,
    instances: StartInstance,
    own_redis: Server,
    other_redis: Server,
    proxy: TcpProxy,
    http: aiohttp.ClientSession,
) -> None:
    subscriptions = Subscriptions(proxy)
    settings = {**READ_REDIS, **NO_GRACE, **lead_to(proxy)}
    client = Client(await asyncio.to_thread(instances, **settings), http)
    sessions = await SessionSet.create(client)
    await wait_until_served_from_redis(client, sessions.revoked.token)
    switch(proxy, other_redis, subscriptions)
    await wait_until_filled(client, sessions.kept, other_redis)
    ended = await sessions.end(client)
    await wait_until_quiet(other_redis)
    if restarts:
        await client.restart()
    switch(proxy, own_redis, subscriptions)
    await wait_until_served_from_redis(client, sessions.kept.token)
    await assert_refused([client], ended.tokens, since=ended.since)
    assert await client.check(sessions.kept.token) == 200


async def test_sessions_revoked_while_only_new_connections_lead_elsewhere_stay_refused(
    instances: StartInstance,
    own_redis: Server,
    other_redis: Server,
    proxy: TcpProxy,
    http: aiohttp.ClientSession,
) -> None:
    """Those that led to the first Redis before stay there, and are used again in the end."""
    client = Client(await asyncio.to_thread(instances, **READ_REDIS, **lead_to(proxy)), http)
    kept = await client.create()
    sessions = [await client.create(f"user-{number}") for number in range(_BURST)]
    await wait_until_served_from_redis(client, kept.token)
    before = set(proxy.connections)
    proxy.set_target(other_redis.port)
    proxy.delay = 0.02  # so that connections are busy, and further ones are opened

    async def has_filled_other() -> bool:
        await asyncio.gather(*(client.check(session.token) for session in sessions))
        return bool(await execute(other_redis, "DBSIZE"))

    await wait_until_async(has_filled_other, within=15)
    proxy.delay = 0.0
    times = await asyncio.gather(*(client.revoke(session.session_id) for session in sessions))
    await wait_until_quiet(other_redis)
    proxy.set_target(own_redis.port)
    for connection in proxy.connections - before:
        connection.reset()
    await wait_until_served_from_redis(client, kept.token)
    ended = {f"session {number}": session.token for number, session in enumerate(sessions)}
    await assert_refused([client], ended, since=max(times))
    assert await client.check(kept.token) == 200


async def test_session_revoked_by_an_instance_with_another_redis_stays_refused(
    instances: StartInstance,
    own_redis: Server,
    other_redis: Server,
    proxy: TcpProxy,
    http: aiohttp.ClientSession,
) -> None:
    """Then that instance, too, reaches the first Redis."""
    async with TcpProxy(other_redis.port) as other_proxy:
        started = await asyncio.gather(
            asyncio.to_thread(instances, **READ_REDIS, **lead_to(proxy)),
            asyncio.to_thread(instances, **READ_REDIS, **lead_to(other_proxy)),
        )
        one, other = (Client(sidegate, http) for sidegate in started)
        kept, revoked = [await one.create() for _ in range(2)]
        await wait_until_served_from_redis(one, revoked.token)
        await wait_until_filled(other, kept, other_redis)
        await one.kill()
        revoked_at = await other.revoke(revoked.session_id)
        await wait_until_quiet(other_redis)
        other_proxy.set_target(own_redis.port)
        other_proxy.reset_connections()
        await wait_until_served_from_redis(other, kept.token)
        await assert_refused([other], {"revoked": revoked.token}, since=revoked_at)
        await one.restart()
        await assert_refused([one, other], {"revoked": revoked.token}, since=revoked_at)
