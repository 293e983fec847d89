"""Every token that ever led to a session is refused when it ends, whatever was not published."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import aiohttp
import pytest

from tests.scenarios.test_outages import statuses_until
from tests.scenarios.trust_sites import (
    READ_MEMORY,
    READ_REDIS,
    Client,
    assert_refused,
    query_through,
)
from tests.scenarios.trust_statements import UNPREPARED, CutAtCommit
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.processes import Server
from tests.support.sidegate import Created, Sidegate

StartInstance = Callable[..., Sidegate]

LONG_GRACE: Final = {"SIDEGATE_SESSIONS__WEB__GRACE": "60s"}
LIMITED: Final = LONG_GRACE | {"SIDEGATE_SESSIONS__WEB__LIMIT": "1"}


async def revoke(client: Client, session: Created) -> str | None:
    """Revoke a session."""
    await client.revoke(session.session_id)
    return None


async def evict(client: Client, _: Created) -> str | None:
    """Evict a session of a user with a limit of one, and return the token of the other."""
    return (await client.create()).token


async def migrate(client: Client, session: Created) -> str | None:
    """Migrate a session, and return its new token."""
    return await client.migrate(session.session_id)


End = Callable[[Client, Created], Awaitable[str | None]]
ENDS: Final[Mapping[str, End]] = {"revoked": revoke, "evicted": evict, "migrated": migrate}


async def start_pair(
    start: StartInstance,
    proxy: TcpProxy,
    http: aiohttp.ClientSession,
    *,
    settings: Mapping[str, str],
) -> tuple[Client, Client]:
    """Start an instance that reaches Postgres through a proxy, and one that reaches it directly."""
    through = {**settings, **UNPREPARED, **query_through(proxy)}
    one, other = await asyncio.gather(
        asyncio.to_thread(start, **through), asyncio.to_thread(start, **settings)
    )
    return Client(one, http), Client(other, http)


async def end_everywhere(
    clients: Sequence[Client], session: Created, *, end: End, tokens: Mapping[str, str]
) -> None:
    """End a session at the last of the instances, and expect its tokens to be refused."""
    since = asyncio.get_running_loop().time()
    allowed = await end(clients[-1], session)
    await assert_refused(clients, tokens, since=since)
    if allowed is not None:
        for client in clients:
            await statuses_until(client.http, client.sidegate, allowed, last=200)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("killed", [False, True], ids=["link-cut", "killed"])
async def test_tokens_of_an_unpublished_rotation_are_refused_from_redis(
    killed: bool,
    end: End,
    instances: StartInstance,
    own_postgres: Server,
    http: aiohttp.ClientSession,
) -> None:
    async with TcpProxy(own_postgres.port) as proxy:
        settings = {**READ_REDIS, **LIMITED}
        one, other = await start_pair(instances, proxy, http, settings=settings)
        session = await one.create()
        second = await one.refresh(session.token)
        for token in (session.token, second):
            assert await other.check(token) == 200  # both are in Redis, the first for its grace
        cut = CutAtCommit(proxy)
        status, _ = await one.post("/v1/refresh", {"token": second})
        assert status == 503
        assert cut.happened
        if killed:
            await one.kill()
        cut.heal()
        if killed:
            await one.restart()
        tokens = {"first": session.token, "second": second}
        current = await other.refresh(second)  # repeated: the rotation had been committed
        if end is not migrate:
            tokens["third"] = current
        await end_everywhere((one, other), session, end=end, tokens=tokens)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("listen", ["true", "false"], ids=["notified", "polling"])
async def test_tokens_rotated_out_are_refused_from_the_memory_of_another_instance(
    listen: str,
    end: End,
    instances: StartInstance,
    own_postgres: Server,
    http: aiohttp.ClientSession,
) -> None:
    without_redis = {"SIDEGATE_REDIS_URL": "", "SIDEGATE_POSTGRES__LISTEN": listen}
    settings = {**READ_MEMORY, **LIMITED, **without_redis}
    async with TcpProxy(own_postgres.port) as proxy:
        one, other = await start_pair(instances, proxy, http, settings=settings)
        session = await other.create()
        assert await one.check(session.token) == 200
        second = await other.refresh(session.token)
        assert await one.check(second) == 200
        third = await other.refresh(second)
        tokens = {"first": session.token, "second": second}
        if end is not migrate:
            tokens["third"] = third
        await end_everywhere((one, other), session, end=end, tokens=tokens)
