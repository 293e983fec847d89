"""Episodes in which Redis replies with errors, or with stale data after a failover."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import redis as vendor

from tests.faults.context import (
    Episode,
    FaultContext,
    answered_lookups,
    failed_lookups,
    run_in_thread,
)
from tests.faults.episodes.redis import configure, execute, open_client
from tests.faults.history import now
from tests.stores.waiting import wait_until_async
from tests.support.processes import temporary_directory
from tests.support.servers import start_redis

_FAULT_TIME: Final = 5.0
_BALLAST_KEYS: Final = 60_000  # keys of a kilobyte


async def fail_over(context: FaultContext) -> None:
    """Promote a replica that lacks acknowledged writes."""
    with temporary_directory() as directory:
        await configure(context, repl_diskless_sync="yes", repl_diskless_sync_delay=0)
        replica = await asyncio.to_thread(
            start_redis, directory, None, ["--replicaof", "127.0.0.1", str(context.redis.port)]
        )
        try:
            with open_client(replica.port) as raw:
                await wait_until_linked(raw)
                await run_in_thread(replica.pause)
                await execute(context, "CLIENT", "KILL", "TYPE", "replica")
                await context.wait_for_revocation()
                await asyncio.sleep(1.0)
                context.mark_started()
                context.record_data_loss()
                await run_in_thread(context.redis.kill)
                await run_in_thread(replica.resume)
                await asyncio.to_thread(raw.execute_command, "REPLICAOF", "NO", "ONE")
                context.redis_proxy.set_target(replica.port)
                context.expect("the replica is empty", observed=await asyncio.to_thread(raw.dbsize))
                async with context.expect_change(
                    "no lookup reached the new primary", answered_lookups("redis")
                ):
                    await context.wait(2 * _FAULT_TIME)
            await run_in_thread(context.redis.restart)
            context.redis_proxy.set_target(context.redis.port)
        finally:
            await run_in_thread(replica.kill)


async def wait_until_linked(raw: Any) -> None:
    async def is_linked() -> bool:
        replication = await asyncio.to_thread(raw.info, "replication")
        return bool(replication["master_link_status"] == "up")

    await wait_until_async(is_linked, within=20)


async def load_slowly(context: FaultContext) -> None:
    """Restart Redis with a snapshot that takes seconds to load.

    The snapshot is mostly ballast, because Redis handles connections once per 2 MB loaded.
    """
    await configure(context, rdbcompression="no")
    await execute(context, "DEBUG", "POPULATE", _BALLAST_KEYS, "ballast", 1024)
    await execute(context, "SAVE")
    context.mark_started()
    context.record_data_loss()
    await run_in_thread(context.redis.kill)
    child = context.redis.child
    ready, argv = child.is_ready, child.argv
    delay = _FAULT_TIME * context.time_scale / _BALLAST_KEYS
    child.is_ready, child.argv = lambda: True, [*argv, "--key-load-delay", str(round(delay * 1e6))]
    try:
        async with context.expect_change("no lookup failed at Redis", failed_lookups("redis")):
            await run_in_thread(child.start)
            errors = await asyncio.to_thread(_count_loading_errors, context.redis.port)
    finally:
        child.is_ready, child.argv = ready, argv
    context.expect("Redis never replied -LOADING", observed=errors)
    await run_in_thread(lambda: _remove_ballast(context.redis.port))
    (context.redis.directory / "dump.rdb").unlink()


def _count_loading_errors(port: int) -> int:
    """Return the number of -LOADING replies until Redis has loaded. Raise TimeoutError."""
    errors, deadline = 0, now() + 60
    while now() < deadline:
        try:
            with open_client(port) as raw:
                raw.ping()
                return errors
        except vendor.exceptions.BusyLoadingError:
            errors += 1
        except vendor.exceptions.ConnectionError:  # not listening yet
            pass
        time.sleep(0.01)
    raise TimeoutError("Redis has not finished loading")


def _remove_ballast(port: int) -> None:
    with open_client(port) as raw:
        for start in range(0, _BALLAST_KEYS, 1000):
            raw.unlink(*(f"ballast:{number}" for number in range(start, start + 1000)))


Command = tuple[str | int, ...]


def refuse(start: Sequence[Command], stop: Sequence[Command]) -> Episode:
    """Make Redis return errors. Both lists of commands are sent on one connection."""

    async def episode(context: FaultContext) -> None:
        with open_client(context.redis.port, single_connection_client=True) as raw:
            before = await asyncio.to_thread(_count_refusals, raw)
            await asyncio.to_thread(_execute_all, raw, start)
            try:
                await context.wait(_FAULT_TIME)
                refused = await asyncio.to_thread(_count_refusals, raw) - before
            finally:
                await asyncio.to_thread(_execute_all, raw, stop)
        context.expect("Redis returned no error", observed=refused)

    return episode


def _execute_all(raw: Any, commands: Sequence[Command]) -> None:
    for command in commands:
        raw.execute_command(*command)


def _count_refusals(raw: Any) -> int:
    """Return the number of error replies and rejected connections so far."""
    stats = raw.info("stats")
    return int(stats["total_error_replies"]) + int(stats["rejected_connections"])


_KILL_CONNECTIONS: Final[tuple[Command, ...]] = (
    ("CLIENT", "KILL", "TYPE", "normal"),  # but not this one
    ("CLIENT", "KILL", "TYPE", "pubsub"),
)

REFUSALS: Final[tuple[tuple[str, Episode], ...]] = (
    ("-LOADING", load_slowly),
    (
        "-OOM",
        refuse(
            start=[("CONFIG", "SET", "maxmemory", 1)],
            stop=[("CONFIG", "SET", "maxmemory", 0)],
        ),
    ),
    (
        "-READONLY",
        refuse(start=[("REPLICAOF", "127.0.0.1", 1)], stop=[("REPLICAOF", "NO", "ONE")]),
    ),
    (
        "-NOAUTH",
        refuse(
            start=[("ACL", "SETUSER", "default", "resetpass", ">secret"), *_KILL_CONNECTIONS],
            stop=[("ACL", "SETUSER", "default", "nopass")],
        ),
    ),
    (
        "max clients",
        refuse(
            start=[("CONFIG", "SET", "maxclients", 1), *_KILL_CONNECTIONS],
            stop=[("CONFIG", "SET", "maxclients", 10_000)],
        ),
    ),
)
