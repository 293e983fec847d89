"""Sessions that an episode ends by itself, and whose tokens it checks afterwards."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from tests.faults.cached_copies import find_open_copies
from tests.faults.context import FaultContext, run_in_thread
from tests.faults.history import TokenCategory, now
from tests.faults.population import ClientToken

_CONCURRENCY: Final = 8

# Redis drops fills that come while a seal is moved.
_CACHED_SHARE: Final = 0.75
_CACHE_TIMEOUT: Final = 5.0
_POLL_INTERVAL: Final = 0.1

# Seconds after which a gateway uses a restarted instance again.
_RESTART_INTERVAL: Final = 1.0


async def check_everywhere(
    context: FaultContext, tokens: Sequence[ClientToken], category: TokenCategory
) -> None:
    """Check every token at every instance, a few at a time."""
    rest = iter(tokens)

    async def some() -> None:
        for token in rest:
            context.load.population.mark_checked(token)
            await context.load.gateway.probe(token, category)

    await asyncio.gather(*(some() for _ in range(_CONCURRENCY)))


async def wait_until_cached(context: FaultContext, tokens: Sequence[ClientToken]) -> None:
    """Return when Redis holds a copy for most of these tokens, which may take a few rounds."""

    deadline, cached = now() + _CACHE_TIMEOUT, 0
    while cached < _CACHED_SHARE * len(tokens) and now() < deadline:
        await asyncio.sleep(_POLL_INTERVAL)
        cached = len(await asyncio.to_thread(find_open_copies, context.redis.port, tokens))
    context.expect("Redis holds no copies for the tokens", observed=cached)


async def revoke_all(context: FaultContext, tokens: Iterable[ClientToken]) -> None:
    """Revoke the sessions of these tokens, each with retries until it is acknowledged."""
    rest = iter(tokens)

    async def some() -> None:
        for token in rest:
            await context.load.admin_client.revoke_until_confirmed(token)

    await asyncio.gather(*(some() for _ in range(_CONCURRENCY)))


async def clear_memory(context: FaultContext) -> None:
    """Restart both instances, one after the other.

    Memory keeps expired tombstones, and with them ignores older copies that Redis returns.
    """
    for upstream in context.load.gateway.upstreams:
        async with context.excuse_instance(upstream):
            await run_in_thread(upstream.sidegate.server.restart)
        await asyncio.sleep(_RESTART_INTERVAL)


async def retire_all(context: FaultContext, tokens: Sequence[ClientToken]) -> None:
    """Check the tokens of ended sessions one by one, and then on, while the load runs.

    Lookups all at once could be too slow for Redis, and be answered by Postgres.
    """
    for token in tokens:
        await context.load.gateway.probe(token, TokenCategory.ENDED)
    for token in tokens:
        context.load.spawn(context.load.retire(token))
