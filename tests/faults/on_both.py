"""Episodes in which both stores are hurt, one after the other, or whatever chance will have."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from tests.faults import on_postgres
from tests.faults.history import now
from tests.faults.stage import Episode, Stage, apart, failed

_DOWN: Final = 12.0

# Time for some revocations between two steps, and for the news of them.
_STEP: Final = 1.5


async def both_down(stage: Stage) -> None:
    """kill -9 of Redis, then of Postgres; both come back."""
    async with (
        stage.showing("no look-up failed at Redis", failed("redis")),
        stage.showing("no look-up failed at Postgres", failed("postgres")),
    ):
        stage.forgets()
        await apart(stage.redis.kill)
        await apart(lambda: on_postgres.stop_at_once(stage.postgres))
        async with stage.darkness():
            await asyncio.sleep(max(8.0, _DOWN * stage.scale))  # longer than memory lasts
        await apart(stage.postgres.restart)
        await apart(stage.redis.restart)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done to a store."""

    name: str
    do: Callable[[Stage], Awaitable[None]]


async def _cut_redis_off(stage: Stage) -> None:
    """Out of reach, with all that it knows: worse than dead."""
    stage.redis_wire.refusing = True
    stage.redis_wire.cut()


async def _let_redis_back(stage: Stage) -> None:
    stage.redis_wire.refusing = False


async def _stop_postgres(stage: Stage) -> None:
    await apart(lambda: on_postgres.stop_at_once(stage.postgres))


async def _start_postgres(stage: Stage) -> None:
    await apart(stage.postgres.restart)


REDIS_GOES: Final = Step("Redis goes", _cut_redis_off)
REDIS_COMES: Final = Step("Redis comes", _let_redis_back)
POSTGRES_GOES: Final = Step("Postgres goes", _stop_postgres)
POSTGRES_COMES: Final = Step("Postgres comes", _start_postgres)

ORDERS: Final[tuple[tuple[Step, ...], ...]] = (
    (REDIS_GOES, REDIS_COMES),
    (POSTGRES_GOES, POSTGRES_COMES),
    (REDIS_GOES, POSTGRES_GOES, REDIS_COMES, POSTGRES_COMES),
    (REDIS_GOES, POSTGRES_GOES, POSTGRES_COMES, REDIS_COMES),
    (POSTGRES_GOES, REDIS_GOES, POSTGRES_COMES, REDIS_COMES),
    (POSTGRES_GOES, REDIS_GOES, REDIS_COMES, POSTGRES_COMES),
)
"""Every order in which one store, or both, can go and come back while sessions are revoked."""


def in_order(steps: Sequence[Step]) -> Episode:
    """Take the steps one by one, with revocations after each that takes a store away."""

    async def episode(stage: Stage) -> None:
        signs = (("redis", REDIS_GOES), ("postgres", POSTGRES_GOES))
        async with AsyncExitStack() as stack:
            for store, step in signs:
                if step in steps:
                    what = f"no look-up failed at {store}"
                    await stack.enter_async_context(stage.showing(what, failed(store)))
            for step in steps:
                await step.do(stage)
                if step is not steps[-1]:
                    await stage.a_revocation(acknowledged=False)
                    await asyncio.sleep(_STEP)

    return episode


def mixed(by_target: Sequence[Sequence[Episode]], seconds: Callable[[Stage], float]) -> Episode:
    """Let chance choose among the episodes of each target; targets are hurt at the same time.

    What an episode would show alone the others may hide: nothing goes from Postgres to a flushed
    Redis while Postgres is away, and no fifty replies come while Redis is in doubt. So of the
    episodes of each target one at least has to show all of its signs.
    """

    async def at_one(stage: Stage, episodes: Sequence[Episode], until: float) -> int:
        shown = 0
        while now() < until:
            await asyncio.sleep(stage.random.uniform(1.0, 6.0))
            alone = replace(stage, absent=[])
            await stage.random.choice(episodes)(alone)
            shown += not alone.absent
        return shown

    async def episode(stage: Stage) -> None:
        until = now() + seconds(stage)
        each = (at_one(stage, episodes, until) for episodes in by_target)
        stage.expect("a target was never seen to be hurt", seen=min(await asyncio.gather(*each)))

    return episode
