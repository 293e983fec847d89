"""Episodes in which instances meet another Redis, or other data in the same one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Final

from tests.faults.cached_copies import find_open_copies
from tests.faults.context import FaultContext, answered_lookups, run_in_thread
from tests.faults.episodes.redis import execute, open_client
from tests.faults.episodes.redis_replies import wait_until_linked
from tests.faults.history import TokenCategory
from tests.faults.population import ClientToken
from tests.faults.revocations import (
    check_everywhere,
    clear_memory,
    retire_all,
    revoke_all,
    wait_until_cached,
)
from tests.stores.sql.tcp_proxy import ProxiedConnection, TcpProxy
from tests.support.processes import Server, temporary_directory
from tests.support.servers import start_redis

_SESSIONS: Final = 20

# Seconds at the other Redis, and of checks afterwards.
_AWAY_TIME: Final = 4.0
_HOLD_TIME: Final = 6.0


async def swap_all_connections(context: FaultContext) -> None:
    """Lead all connections to an empty Redis, and back, with a restart of both meanwhile."""
    async with _other_redis() as other:
        tokens = await _take_cached(context)
        context.mark_started()
        _lead_to(context.redis_proxy, other.port)
        async with context.expect_change(
            "no lookup reached the other Redis", answered_lookups("redis")
        ):
            await revoke_all(context, tokens)
            await clear_memory(context)
            await context.wait(_AWAY_TIME)
        async with context.load.without_changes():
            _lead_to(context.redis_proxy, context.redis.port)
            await retire_all(context, tokens)
        await context.wait(_HOLD_TIME)


async def swap_new_connections(context: FaultContext) -> None:
    """Lead only new connections to an empty Redis, and back: both are in use at once.

    Sessions end when every connection leads to the other Redis.
    """
    proxy = context.redis_proxy
    async with _other_redis() as other:
        tokens = await _take_cached(context)
        context.mark_started()
        proxy.set_target(other.port)
        await _reset_some(context, proxy)
        proxy.reset_connections()
        await revoke_all(context, tokens)
        await clear_memory(context)
        context.expect("the other Redis is empty", observed=await _count_keys(other))
        proxy.set_target(context.redis.port)
        await _reset_some(context, proxy, tokens)
        await retire_all(context, tokens)
        await context.wait(_HOLD_TIME)
        proxy.reset_connections()


async def swap_at_one_instance(context: FaultContext) -> None:
    """Lead the connections of one instance to an empty Redis, and back."""
    proxy = context.deployment.target_redis_proxy
    async with _other_redis() as other:
        tokens = await _take_cached(context)
        context.mark_started()
        _lead_to(proxy, other.port)
        await revoke_all(context, tokens)
        await clear_memory(context)
        await context.wait(_AWAY_TIME)
        context.expect("the other Redis is empty", observed=await _count_keys(other))
        async with context.load.without_changes():
            _lead_to(proxy, context.redis_proxy.port)
            await retire_all(context, tokens)
        await context.wait(_HOLD_TIME)


async def load_old_copy(context: FaultContext) -> None:
    """REPLICAOF a copy from before revocations, then NO ONE: no connection breaks."""
    following = ["--replicaof", "127.0.0.1", str(context.redis.port)]
    with temporary_directory() as directory:
        copy = await asyncio.to_thread(start_redis, directory, None, following)
        try:
            tokens = await _take_cached(context)
            with open_client(copy.port) as raw:
                await wait_until_linked(raw)
                await asyncio.to_thread(raw.execute_command, "REPLICAOF", "NO", "ONE")
            context.mark_started()
            await revoke_all(context, tokens)
            await clear_memory(context)
            loaded = await asyncio.to_thread(find_open_copies, copy.port, tokens)
            context.expect("the old copy holds no open copy", observed=len(loaded))
            async with context.load.without_changes():
                await execute(context, "REPLICAOF", "127.0.0.1", copy.port)
                with open_client(context.redis.port) as raw:
                    await wait_until_linked(raw)
                await execute(context, "REPLICAOF", "NO", "ONE")
                await retire_all(context, tokens)
            await context.wait(_HOLD_TIME)
        finally:
            await run_in_thread(copy.kill)


@asynccontextmanager
async def _other_redis() -> AsyncIterator[Server]:
    """Start another Redis for the duration of the block."""
    with temporary_directory() as directory:
        other = await asyncio.to_thread(start_redis, directory)
        try:
            yield other
        finally:
            await run_in_thread(other.kill)


async def _take_cached(context: FaultContext) -> Sequence[ClientToken]:
    """Take tokens of sessions with copies in Redis, to be revoked."""
    tokens = context.load.population.take_many(_SESSIONS)
    await check_everywhere(context, tokens, TokenCategory.WARM)
    await wait_until_cached(context, tokens)
    return tokens


def _lead_to(proxy: TcpProxy, port: int) -> None:
    """Lead all connections of the proxy to a port."""
    proxy.set_target(port)
    proxy.reset_connections()


async def _reset_some(
    context: FaultContext, proxy: TcpProxy, tokens: Sequence[ClientToken] = ()
) -> None:
    """Reset about half of the connections, several times: pools replace them one by one.

    Check the tokens of ended sessions after each.
    """
    for _ in range(round(_AWAY_TIME * context.time_scale)):
        for connection in _choose_half(proxy, context.random):
            connection.reset()
        for token in tokens:
            await context.load.gateway.probe(token, TokenCategory.ENDED)
        await asyncio.sleep(1.0)


def _choose_half(proxy: TcpProxy, random: Random) -> list[ProxiedConnection]:
    return [connection for connection in proxy.connections if random.random() < 0.5]


async def _count_keys(server: Server) -> int:
    with open_client(server.port) as raw:
        return int(await asyncio.to_thread(raw.dbsize))
