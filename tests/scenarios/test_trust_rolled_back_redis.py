"""Ended sessions stay ended if a Redis has the data of an earlier time again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Final

import aiohttp
import pytest

from tests.scenarios.trust_sites import (
    NO_GRACE,
    READ_REDIS,
    Client,
    SessionSet,
    assert_refused,
    execute,
    open_redis,
    wait_until_linked,
    wait_until_quiet,
    wait_until_served_from_redis,
)
from tests.support.processes import Server
from tests.support.servers import REDIS_KINDS
from tests.support.sidegate import Sidegate

StartInstance = Callable[..., Sidegate]

RollBack = Callable[[], Awaitable[object]]
Prepare = Callable[[Server, Callable[[], Server]], Awaitable[RollBack]]
"""Copies the data of a Redis, and returns what gives it that data again.

The second argument starts another Redis of its kind.
"""


async def prepare_replication(server: Server, start_other: Callable[[], Server]) -> RollBack:
    """Make it a replica of an old copy, which it loads, and then a primary again."""
    become_replica = await prepare_replica(server, start_other)

    async def roll_back() -> None:
        await become_replica()
        await execute(server, "REPLICAOF", "NO", "ONE")

    return roll_back


async def prepare_replica(server: Server, start_other: Callable[[], Server]) -> RollBack:
    """Make it a replica of an old copy, which it stays."""
    copy = await asyncio.to_thread(start_other)
    await execute(copy, "REPLICAOF", "127.0.0.1", server.port)
    await wait_until_linked(copy)
    await execute(copy, "REPLICAOF", "NO", "ONE")

    async def roll_back() -> None:
        await execute(server, "REPLICAOF", "127.0.0.1", copy.port)
        await wait_until_linked(server)

    return roll_back


async def prepare_swap(server: Server, _: Callable[[], Server]) -> RollBack:
    """Exchange its database for another one with an old copy of all keys."""
    for key in await execute(server, "KEYS", "*"):
        await execute(server, "COPY", key, key, "DB", 1)
    return lambda: execute(server, "SWAPDB", 0, 1)


async def prepare_reload(server: Server, _: Callable[[], Server]) -> RollBack:
    """Load an old file into the running server, as a restored machine snapshot has it."""
    await execute(server, "SAVE")
    return lambda: execute(server, "DEBUG", "RELOAD", "NOSAVE")


async def prepare_restart(server: Server, _: Callable[[], Server]) -> RollBack:
    """Restart it with an old file."""
    await execute(server, "SAVE")

    async def roll_back() -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)

    return roll_back


DEFAULT: Final = REDIS_KINDS[0]
ROWS: Final[list[tuple[Prepare, str]]] = [
    *((prepare_replication, kind) for kind in REDIS_KINDS),
    (prepare_replica, DEFAULT),
    (prepare_swap, DEFAULT),
    (prepare_reload, DEFAULT),
    (prepare_restart, DEFAULT),
]


def build_arguments(kind: str) -> list[str]:
    """Return the arguments for replication without a delay, and for DEBUG."""
    arguments = ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
    # Redis 6.2 has no such setting, and always has the command.
    return arguments if kind == "redis-6.2" else [*arguments, "--enable-debug-command", "yes"]


@pytest.mark.parametrize(
    ("prepare", "kind"), ROWS, ids=[f"{row[0].__name__[8:]}-{row[1]}" for row in ROWS]
)
async def test_ended_sessions_stay_refused_after_redis_was_rolled_back(
    prepare: Prepare, kind: str, instances: StartInstance, http: aiohttp.ClientSession
) -> None:
    with ExitStack() as stack:

        def start() -> Server:
            return stack.enter_context(open_redis(kind, build_arguments(kind)))

        server = await asyncio.to_thread(start)
        settings = {**READ_REDIS, **NO_GRACE, "SIDEGATE_REDIS_URL": server.url}
        client = Client(await asyncio.to_thread(instances, **settings), http)
        sessions = await SessionSet.create(client)
        await wait_until_served_from_redis(client, sessions.kept.token)
        await wait_until_quiet(server)
        roll_back = await prepare(server, start)
        ended = await sessions.end(client)
        await wait_until_quiet(server)
        await roll_back()
        if prepare is not prepare_replica:  # it takes no writes, and need not be used
            await wait_until_served_from_redis(client, sessions.kept.token)
        await assert_refused([client], ended.tokens, since=ended.since)
        assert await client.check(sessions.kept.token) == 200
