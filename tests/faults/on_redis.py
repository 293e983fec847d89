"""Episodes in which Redis is hurt, or the wire to it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis as vendor
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.history import Road
from tests.faults.mischief import Strays, reset_each
from tests.faults.stage import Episode, Stage, answered, apart, failed

# How long a Redis that is down stays so, and one that is merely bad.
_DOWN: Final = 10.0
_BAD: Final = 10.0


@contextmanager
def client(port: int, **options: Any) -> Iterator[Any]:
    """A client that waits, once; redis-py's types are not the same in every version."""
    once = Retry(NoBackoff(), 0)
    with vendor.Redis(port=port, socket_timeout=10, protocol=2, retry=once, **options) as raw:
        yield raw


async def tell(stage: Stage, *command: str | int) -> Any:
    """Send Redis a command, past the wire, and return its reply."""

    def told() -> Any:
        with client(stage.redis.port) as raw:
            return raw.execute_command(*command)

    return await asyncio.to_thread(told)


async def configure(stage: Stage, **settings: str | int) -> None:
    """CONFIG SET each; underscores stand for dashes."""
    for name, value in settings.items():
        await tell(stage, "CONFIG", "SET", name.replace("_", "-"), value)


async def info(stage: Stage, section: str, name: str) -> int:
    return int((await tell(stage, "INFO", section))[name])


async def killed(stage: Stage) -> None:
    """kill -9; it comes back empty."""
    async with stage.showing("no look-up failed at Redis", failed("redis")):
        stage.forgets()
        await apart(stage.redis.kill)
        await stage.wait(_DOWN)
        await apart(stage.redis.restart)


async def resurrected(stage: Stage) -> None:
    """kill -9 after revocations; it comes back with a snapshot from before them."""
    await tell(stage, "SAVE")
    await stage.a_revocation()
    await asyncio.sleep(1.0)
    async with stage.showing("no look-up failed at Redis", failed("redis")):
        stage.begins()
        stage.forgets()
        await apart(stage.redis.kill)
        await stage.wait(_DOWN / 2)
        await apart(stage.redis.restart)
    stage.expect("Redis came back empty", seen=await tell(stage, "DBSIZE"))
    (stage.redis.directory / "dump.rdb").unlink()


async def frozen(stage: Stage) -> None:
    """SIGSTOP: connections stay open, nobody answers."""
    async with stage.showing("no look-up failed at Redis", failed("redis")):
        await apart(stage.redis.pause)
        try:
            await stage.wait(15.0)
        finally:
            await apart(stage.redis.resume)


def slow(seconds: float) -> Episode:
    """Each reply comes so much later."""

    async def episode(stage: Stage) -> None:
        async with stage.showing("no look-up failed at Redis", failed("redis")):
            stage.redis_wire.delay = seconds / 2
            try:
                await stage.wait(_BAD)
            finally:
                stage.redis_wire.delay = 0.0

    return episode


async def resetting(stage: Stage) -> None:
    """The connection is reset at each fiftieth reply."""
    torn = stage.redis_wire.torn
    stage.redis_wire.answers = reset_each(50)
    try:
        await stage.wait(_BAD)
    finally:
        stage.redis_wire.answers = lambda _, chunk: chunk
    stage.expect("no connection to Redis was reset", seen=stage.redis_wire.torn - torn)


async def sliced(stage: Stage) -> None:
    """Replies arrive byte by byte, 5,000 a second."""
    async with stage.showing("no look-up failed at Redis", failed("redis")):
        stage.redis_wire.slice, stage.redis_wire.rate = 1, 5000.0
        try:
            await stage.wait(_BAD)
        finally:
            stage.redis_wire.slice, stage.redis_wire.rate = 65_536, float("inf")


async def black_hole(stage: Stage) -> None:
    """Nothing arrives any more, and nobody is told."""
    async with stage.showing("no look-up failed at Redis", failed("redis")):
        stage.redis_wire.hold()
        try:
            await stage.wait(_DOWN)
        finally:
            stage.redis_wire.let_go()


async def strays(stage: Stage) -> None:
    """Replies that nobody asked for, before the right one, twice, and on idle connections."""
    strays = Strays(stage.random, share=0.2)
    stage.redis_wire.answers = strays.answers
    try:
        for _ in range(round(_BAD * stage.scale / 0.25)):
            stage.redis_wire.inject(b"$5\r\nstray\r\n")
            await asyncio.sleep(0.25)
    finally:
        stage.redis_wire.answers = lambda _, chunk: chunk
    stage.expect("no reply was put before another", seen=strays.put)


async def flushed(stage: Stage) -> None:
    """FLUSHALL, every other second."""
    async with stage.showing("nobody had to go to Postgres", answered("postgres")):
        for _ in range(round(_BAD * stage.scale / 2)):
            stage.expect("there was nothing to flush", seen=await tell(stage, "DBSIZE"))
            stage.forgets()
            await tell(stage, "FLUSHALL")
            await asyncio.sleep(2.0)


async def evicting(stage: Stage) -> None:
    """Memory is short, and copies are thrown out all the time."""
    before = await info(stage, "stats", "evicted_keys")
    used = await info(stage, "memory", "used_memory")
    await configure(stage, maxmemory_policy="allkeys-lru", maxmemory=used - 400_000)
    try:
        await stage.load.all_of(stage.load.population.warm[:500], Road.WARM)
        await stage.wait(_BAD)
    finally:
        await configure(stage, maxmemory=0, maxmemory_policy="noeviction")
    evicted = await info(stage, "stats", "evicted_keys") - before
    stage.expect("nothing was evicted", seen=evicted)


async def unsubscribed(stage: Stage) -> None:
    """The feed's connections are killed each second."""
    killed = 0
    for _ in range(round(_BAD * stage.scale)):
        killed += int(await tell(stage, "CLIENT", "KILL", "TYPE", "pubsub"))
        await asyncio.sleep(1.0)
    stage.expect("nobody had subscribed", seen=killed)
