"""Episodes with faults of Redis, or of the connections to it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis as vendor
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.context import (
    Episode,
    FaultContext,
    answered_lookups,
    failed_lookups,
    run_in_thread,
)
from tests.faults.history import TokenCategory
from tests.faults.proxy_faults import StrayReplies, reset_each

# Seconds for which Redis is down, or merely degraded.
_OUTAGE_TIME: Final = 10.0
_DEGRADED_TIME: Final = 10.0


@contextmanager
def open_client(port: int, **options: Any) -> Iterator[Any]:
    """Open a client with a timeout and without retries. Redis-py's types differ by version."""
    once = Retry(NoBackoff(), 0)
    with vendor.Redis(port=port, socket_timeout=10, protocol=2, retry=once, **options) as raw:
        yield raw


async def execute(context: FaultContext, *command: str | int) -> Any:
    """Send a command directly to Redis, and return its reply."""

    def run() -> Any:
        with open_client(context.redis.port) as raw:
            return raw.execute_command(*command)

    return await asyncio.to_thread(run)


async def configure(context: FaultContext, **settings: str | int) -> None:
    """Set configuration parameters; underscores stand for dashes."""
    for name, value in settings.items():
        await execute(context, "CONFIG", "SET", name.replace("_", "-"), value)


async def read_info(context: FaultContext, section: str, name: str) -> int:
    return int((await execute(context, "INFO", section))[name])


async def kill(context: FaultContext) -> None:
    """kill -9; Redis restarts empty."""
    async with context.expect_change("no lookup failed at Redis", failed_lookups("redis")):
        context.record_data_loss()
        await run_in_thread(context.redis.kill)
        await context.wait(_OUTAGE_TIME)
        await run_in_thread(context.redis.restart)


async def restore_old_snapshot(context: FaultContext) -> None:
    """kill -9 after revocations; Redis restarts with a snapshot from before them."""
    await execute(context, "SAVE")
    await context.wait_for_revocation()
    await asyncio.sleep(1.0)
    async with context.expect_change("no lookup failed at Redis", failed_lookups("redis")):
        context.mark_started()
        context.record_data_loss()
        await run_in_thread(context.redis.kill)
        await context.wait(_OUTAGE_TIME / 2)
        await run_in_thread(context.redis.restart)
    context.expect("Redis restarted empty", observed=await execute(context, "DBSIZE"))
    (context.redis.directory / "dump.rdb").unlink()


async def freeze(context: FaultContext) -> None:
    """SIGSTOP: connections stay open, without replies."""
    async with context.expect_change("no lookup failed at Redis", failed_lookups("redis")):
        await run_in_thread(context.redis.pause)
        try:
            await context.wait(15.0)
        finally:
            await run_in_thread(context.redis.resume)


def delay_replies(seconds: float) -> Episode:
    """Delay each reply by so many seconds."""

    async def episode(context: FaultContext) -> None:
        async with context.expect_change("no lookup failed at Redis", failed_lookups("redis")):
            context.redis_proxy.delay = seconds / 2
            try:
                await context.wait(_DEGRADED_TIME)
            finally:
                context.redis_proxy.delay = 0.0

    return episode


async def reset_connections(context: FaultContext) -> None:
    """Reset the connection at every fiftieth reply."""
    torn = context.redis_proxy.resets
    context.redis_proxy.server_filter = reset_each(50)
    try:
        await context.wait(_DEGRADED_TIME)
    finally:
        context.redis_proxy.server_filter = lambda _, chunk: chunk
    context.expect("no connection to Redis was reset", observed=context.redis_proxy.resets - torn)


async def slice_replies(context: FaultContext) -> None:
    """Forward replies byte by byte, 5,000 bytes a second."""
    async with context.expect_change("no lookup failed at Redis", failed_lookups("redis")):
        context.redis_proxy.chunk_size, context.redis_proxy.bytes_per_second = 1, 5000.0
        try:
            await context.wait(_DEGRADED_TIME)
        finally:
            context.redis_proxy.chunk_size, context.redis_proxy.bytes_per_second = (
                65_536,
                float("inf"),
            )


async def drop_traffic(context: FaultContext) -> None:
    """Drop all traffic without closing connections."""
    async with context.expect_change("no lookup failed at Redis", failed_lookups("redis")):
        context.redis_proxy.stall()
        try:
            await context.wait(_OUTAGE_TIME)
        finally:
            context.redis_proxy.resume()


async def inject_strays(context: FaultContext) -> None:
    """Inject wrong replies: before and instead of the right one, twice, and on idle connections."""
    strays = StrayReplies(context.random, share=0.2)
    context.redis_proxy.server_filter = strays.on_reply
    try:
        for _ in range(round(_DEGRADED_TIME * context.time_scale / 0.25)):
            context.redis_proxy.inject(b"$5\r\nstray\r\n")
            await asyncio.sleep(0.25)
    finally:
        context.redis_proxy.server_filter = lambda _, chunk: chunk
    context.expect("no stray reply was injected", observed=strays.injected)


async def flush(context: FaultContext) -> None:
    """FLUSHALL every other second."""
    async with context.expect_change("no lookup reached Postgres", answered_lookups("postgres")):
        for _ in range(round(_DEGRADED_TIME * context.time_scale / 2)):
            context.expect(
                "Redis was empty before FLUSHALL", observed=await execute(context, "DBSIZE")
            )
            context.record_data_loss()
            await execute(context, "FLUSHALL")
            await asyncio.sleep(2.0)


async def fill_memory(context: FaultContext) -> None:
    """Limit the memory, so that cache entries are evicted continually."""
    before = await read_info(context, "stats", "evicted_keys")
    used = await read_info(context, "memory", "used_memory")
    await configure(context, maxmemory_policy="allkeys-lru", maxmemory=used - 400_000)
    try:
        await context.load.check_all(context.load.population.warm[:500], TokenCategory.WARM)
        await context.wait(_DEGRADED_TIME)
    finally:
        await configure(context, maxmemory=0, maxmemory_policy="noeviction")
    evicted = await read_info(context, "stats", "evicted_keys") - before
    context.expect("no key was evicted", observed=evicted)


async def kill_pubsub(context: FaultContext) -> None:
    """Kill the pub/sub connections every second."""
    count = 0
    for _ in range(round(_DEGRADED_TIME * context.time_scale)):
        count += int(await execute(context, "CLIENT", "KILL", "TYPE", "pubsub"))
        await asyncio.sleep(1.0)
    context.expect("there were no pub/sub connections", observed=count)
