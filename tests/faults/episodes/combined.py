"""Episodes with faults of both stores, and a random mix of other episodes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from tests.faults.context import Episode, FaultContext, failed_lookups, run_in_thread
from tests.faults.episodes import postgres
from tests.faults.history import now

_OUTAGE_TIME: Final = 12.0

# Seconds between two steps: for some revocations and their notifications.
_STEP_TIME: Final = 1.5


async def stop_both(context: FaultContext) -> None:
    """Kill Redis, then Postgres, and restart both."""
    async with (
        context.expect_change("no lookup failed at Redis", failed_lookups("redis")),
        context.expect_change("no lookup failed at Postgres", failed_lookups("postgres")),
    ):
        context.record_data_loss()
        await run_in_thread(context.redis.kill)
        await run_in_thread(lambda: postgres.stop_immediately(context.postgres))
        async with context.record_stores_down():
            # Longer than cache entries in memory live.
            await asyncio.sleep(max(8.0, _OUTAGE_TIME * context.time_scale))
        await run_in_thread(context.postgres.restart)
        await run_in_thread(context.redis.restart)


@dataclass(frozen=True, slots=True)
class Step:
    """An action on a store."""

    name: str
    run: Callable[[FaultContext], Awaitable[None]]


async def _disconnect_redis(context: FaultContext) -> None:
    """Make Redis unreachable with its data intact, which is worse than losing them."""
    context.redis_proxy.refuse_new = True
    context.redis_proxy.reset_connections()


async def _reconnect_redis(context: FaultContext) -> None:
    context.redis_proxy.refuse_new = False


async def _stop_postgres(context: FaultContext) -> None:
    await run_in_thread(lambda: postgres.stop_immediately(context.postgres))


async def _start_postgres(context: FaultContext) -> None:
    await run_in_thread(context.postgres.restart)


REDIS_DOWN: Final = Step("Redis down", _disconnect_redis)
REDIS_UP: Final = Step("Redis up", _reconnect_redis)
POSTGRES_DOWN: Final = Step("Postgres down", _stop_postgres)
POSTGRES_UP: Final = Step("Postgres up", _start_postgres)

ORDERS: Final[tuple[tuple[Step, ...], ...]] = (
    (REDIS_DOWN, REDIS_UP),
    (POSTGRES_DOWN, POSTGRES_UP),
    (REDIS_DOWN, POSTGRES_DOWN, REDIS_UP, POSTGRES_UP),
    (REDIS_DOWN, POSTGRES_DOWN, POSTGRES_UP, REDIS_UP),
    (POSTGRES_DOWN, REDIS_DOWN, POSTGRES_UP, REDIS_UP),
    (POSTGRES_DOWN, REDIS_DOWN, REDIS_UP, POSTGRES_UP),
)
"""All orders in which one or both stores can fail and recover."""

QUICK_ORDERS: Final = (ORDERS[2], ORDERS[4])


def name(steps: Sequence[Step]) -> str:
    return ", ".join(step.name for step in steps)


def run_steps(steps: Sequence[Step]) -> Episode:
    """Run the steps in order, with revocations after each but the last."""

    async def episode(context: FaultContext) -> None:
        stores = (("redis", REDIS_DOWN), ("postgres", POSTGRES_DOWN))
        async with AsyncExitStack() as stack:
            for store, step in stores:
                if step in steps:
                    problem = f"no lookup failed at {store}"
                    await stack.enter_async_context(
                        context.expect_change(problem, failed_lookups(store))
                    )
            for step in steps:
                await step.run(context)
                if step is not steps[-1]:
                    await context.wait_for_revocation(acknowledged=False)
                    await asyncio.sleep(_STEP_TIME)

    return episode


def mix_random(
    by_target: Sequence[Sequence[Episode]], seconds: Callable[[FaultContext], float]
) -> Episode:
    """Run random episodes of each target, on all targets concurrently.

    Concurrent faults may hide each other's effects: a flushed Redis is not filled while Postgres is
    down, and there are no fifty replies while Redis is not trusted. So at least one episode of each
    target has to show all of its effects.
    """

    async def at_one(context: FaultContext, episodes: Sequence[Episode], until: float) -> int:
        confirmed = 0
        while now() < until:
            await asyncio.sleep(context.random.uniform(1.0, 6.0))
            isolated = replace(context, missing_effects=[])
            await context.random.choice(episodes)(isolated)
            confirmed += not isolated.missing_effects
        return confirmed

    async def episode(context: FaultContext) -> None:
        until = now() + seconds(context)
        each = (at_one(context, episodes, until) for episodes in by_target)
        context.expect(
            "a target showed no effect of its faults", observed=min(await asyncio.gather(*each))
        )

    return episode
