"""Episodes in which Redis answers, but not as it should: promoted too early, loading, refusing."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import redis as vendor

from tests.faults.history import now
from tests.faults.on_redis import client, configure, tell
from tests.faults.stage import Episode, Stage, answered, apart, failed
from tests.stores.waiting import until_answered
from tests.support.processes import temporary_directory
from tests.support.servers import start_redis

_LASTS: Final = 5.0
_BALLAST: Final = 60_000  # keys of a kilobyte


async def failed_over(stage: Stage) -> None:
    """A replica is promoted that has missed writes which had been acknowledged."""
    with temporary_directory() as directory:
        await configure(stage, repl_diskless_sync="yes", repl_diskless_sync_delay=0)
        replica = await asyncio.to_thread(
            start_redis, directory, None, ["--replicaof", "127.0.0.1", str(stage.redis.port)]
        )
        try:
            with client(replica.port) as raw:
                await _until_linked(raw)
                await apart(replica.pause)
                await tell(stage, "CLIENT", "KILL", "TYPE", "replica")
                await stage.a_revocation()
                await asyncio.sleep(1.0)
                stage.begins()
                stage.forgets()
                await apart(stage.redis.kill)
                await apart(replica.resume)
                await asyncio.to_thread(raw.execute_command, "REPLICAOF", "NO", "ONE")
                stage.redis_wire.lead_to(replica.port)
                stage.expect("the replica is empty", seen=await asyncio.to_thread(raw.dbsize))
                async with stage.showing("nobody asked the new primary", answered("redis")):
                    await stage.wait(2 * _LASTS)
            await apart(stage.redis.restart)
            stage.redis_wire.lead_to(stage.redis.port)
        finally:
            await apart(replica.kill)


async def _until_linked(raw: Any) -> None:
    async def is_linked() -> bool:
        told = await asyncio.to_thread(raw.info, "replication")
        return bool(told["master_link_status"] == "up")

    await until_answered(is_linked, within=20)


async def loading(stage: Stage) -> None:
    """Start it again from a snapshot that takes seconds to read; it answers now and then meanwhile.

    What it reads is mostly ballast: it looks at its connections once for every 2 MB.
    """
    await configure(stage, rdbcompression="no")
    await tell(stage, "DEBUG", "POPULATE", _BALLAST, "ballast", 1024)
    await tell(stage, "SAVE")
    stage.begins()
    stage.forgets()
    await apart(stage.redis.kill)
    child = stage.redis.child
    ready, argv = child.ready, child.argv
    delay = _LASTS * stage.scale / _BALLAST
    child.ready, child.argv = lambda: True, [*argv, "--key-load-delay", str(round(delay * 1e6))]
    try:
        async with stage.showing("no look-up failed at Redis", failed("redis")):
            await apart(child.start)
            seen = await asyncio.to_thread(_told_that_it_loads, stage.redis.port)
    finally:
        child.ready, child.argv = ready, argv
    stage.expect("Redis never said -LOADING", seen=seen)
    await apart(lambda: _without_ballast(stage.redis.port))
    (stage.redis.directory / "dump.rdb").unlink()


def _told_that_it_loads(port: int) -> int:
    """Return how often it said so, when it does not say so any more."""
    seen, until = 0, now() + 60
    while now() < until:
        try:
            with client(port) as raw:
                raw.ping()
                return seen
        except vendor.exceptions.BusyLoadingError:
            seen += 1
        except vendor.exceptions.ConnectionError:  # not there yet
            pass
        time.sleep(0.01)
    raise TimeoutError("Redis does not come to an end with loading")


def _without_ballast(port: int) -> None:
    with client(port) as raw:
        for start in range(0, _BALLAST, 1000):
            raw.unlink(*(f"ballast:{number}" for number in range(start, start + 1000)))


Command = tuple[str | int, ...]


def refusing(begin: Sequence[Command], end: Sequence[Command]) -> Episode:
    """Redis is there, and refuses. Both lists go through one connection, which stays."""

    async def episode(stage: Stage) -> None:
        with client(stage.redis.port, single_connection_client=True) as raw:
            before = await asyncio.to_thread(_refused, raw)
            await asyncio.to_thread(_tell_all, raw, begin)
            try:
                await stage.wait(_LASTS)
                refused = await asyncio.to_thread(_refused, raw) - before
            finally:
                await asyncio.to_thread(_tell_all, raw, end)
        stage.expect("Redis refused nothing", seen=refused)

    return episode


def _tell_all(raw: Any, commands: Sequence[Command]) -> None:
    for command in commands:
        raw.execute_command(*command)


def _refused(raw: Any) -> int:
    """Count what Redis has refused so far: error replies, and connections."""
    stats = raw.info("stats")
    return int(stats["total_error_replies"]) + int(stats["rejected_connections"])


_HANG_UP: Final[tuple[Command, ...]] = (
    ("CLIENT", "KILL", "TYPE", "normal"),  # but for whoever says so
    ("CLIENT", "KILL", "TYPE", "pubsub"),
)

REFUSALS: Final[tuple[tuple[str, Episode], ...]] = (
    ("-LOADING", loading),
    (
        "-OOM",
        refusing(
            begin=[("CONFIG", "SET", "maxmemory", 1)],
            end=[("CONFIG", "SET", "maxmemory", 0)],
        ),
    ),
    (
        "-READONLY",
        refusing(begin=[("REPLICAOF", "127.0.0.1", 1)], end=[("REPLICAOF", "NO", "ONE")]),
    ),
    (
        "-NOAUTH",
        refusing(
            begin=[("ACL", "SETUSER", "default", "resetpass", ">secret"), *_HANG_UP],
            end=[("ACL", "SETUSER", "default", "nopass")],
        ),
    ),
    (
        "max clients",
        refusing(
            begin=[("CONFIG", "SET", "maxclients", 1), *_HANG_UP],
            end=[("CONFIG", "SET", "maxclients", 10_000)],
        ),
    ),
)
