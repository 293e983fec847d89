"""An episode in which a transaction that is not Sidegate's locks sessions longer than the grace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tests.faults.context import FaultContext
from tests.faults.deployment import connect_as_superuser
from tests.faults.gateway import Upstream
from tests.faults.history import TokenCategory, now
from tests.faults.population import ClientToken
from tests.faults.revocations import check_everywhere, retire_all
from tests.faults.rules import Rules, Violation

_LOCK_TIME: Final = 12.0

# Times that their tokens are checked meanwhile.
_CHECKS: Final = 6

# Seconds between two attempts, and after the end of the lock until which one has to succeed.
_RETRY_DELAY: Final = 0.5
_ANSWER_TIMEOUT: Final = 10.0

_WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def lock_rows(context: FaultContext) -> None:
    """Lock sessions; refresh some at both instances, revoke one and migrate one meanwhile.

    Each request is sent again until it is answered, as `503 outcome_unknown` tells a client to do.
    One client has lost the answer nevertheless, and refreshes again after the grace period.
    """
    refreshed, unlucky, revoked, migrated = tokens = context.load.population.take_many(4)
    await check_everywhere(context, tokens, TokenCategory.WARM)
    context.mark_started()
    async with asyncio.TaskGroup() as group, _locked(context, tokens):
        refreshes = group.create_task(_refresh_everywhere(context, refreshed))
        lost = group.create_task(_refresh_everywhere(context, unlucky))
        migration = group.create_task(_migrate(context, migrated))
        group.create_task(context.load.admin_client.revoke_until_confirmed(revoked))
        for _ in range(_CHECKS):
            await context.wait(_LOCK_TIME / _CHECKS)
            await check_everywhere(context, [refreshed, unlucky], TokenCategory.WARM)
        context.expect("nothing waited for the lock", observed=await _count_waiting(context))
        done = refreshes.done() or lost.done() or migration.done()
        context.expect("a locked session was changed", observed=not done)
    _expect_same(context, refreshed, refreshes.result())
    used = await _use(context, [*refreshes.result(), migration.result()])
    await asyncio.sleep(Rules().grace)
    again = await _refresh_everywhere(context, unlucky)
    _expect_same(context, unlucky, [*lost.result(), *again])
    used = [*used, *await _use(context, again)]
    await retire_all(context, [revoked])
    await _expect_active(context, [refreshed, unlucky, migrated])
    for token in used:
        context.load.population.add(token)


@asynccontextmanager
async def _locked(context: FaultContext, tokens: Sequence[ClientToken]) -> AsyncIterator[None]:
    """Lock the rows of these sessions during the block."""
    async with connect_as_superuser(context.postgres) as connection, connection.transaction():
        sessions = [token.session for token in tokens]
        query = "SELECT id FROM sessions WHERE id = ANY($1::uuid[]) FOR UPDATE"
        rows = await connection.fetch(query, sessions)
        context.expect("a session was not locked", observed=len(rows) == len(tokens))
        yield


async def _count_waiting(context: FaultContext) -> int:
    async with connect_as_superuser(context.postgres) as connection:
        return int(await connection.fetchval(_WAITING))


async def _refresh_everywhere(
    context: FaultContext, token: ClientToken
) -> list[ClientToken | None]:
    """Refresh at both instances until each returns a successor; None: one did not in time."""

    async def refresh(upstream: Upstream) -> ClientToken | None:
        return await _retry(
            context, lambda: context.load.admin_client.refresh_once(token, at=upstream)
        )

    return await asyncio.gather(*map(refresh, context.load.gateway.upstreams))


async def _migrate(context: FaultContext, token: ClientToken) -> ClientToken | None:
    """Migrate until a token is returned; None: none was in time."""
    return await _retry(context, lambda: context.load.admin_client.migrate(token, at=context.other))


async def _retry(
    context: FaultContext, attempt: Callable[[], Awaitable[ClientToken | None]]
) -> ClientToken | None:
    deadline = now() + _LOCK_TIME * context.time_scale + _ANSWER_TIMEOUT
    token = await attempt()
    while token is None and now() < deadline:
        await asyncio.sleep(_RETRY_DELAY)
        token = await attempt()
    return token


async def _use(
    context: FaultContext, tokens: Sequence[ClientToken | None]
) -> Sequence[ClientToken]:
    """Check the tokens that clients have now, and again when all caches know their sessions.

    Return them, each once.
    """
    issued = list(dict.fromkeys(token for token in tokens if token is not None))
    await check_everywhere(context, issued, TokenCategory.WARM)
    await asyncio.sleep(Rules().touch_interval + Rules().normal_bound)
    await check_everywhere(context, issued, TokenCategory.WARM)
    return issued


def _expect_same(
    context: FaultContext, token: ClientToken, successors: Sequence[ClientToken | None]
) -> None:
    """Report a violation unless both refreshes returned the same token."""
    if None in successors or len(set(successors)) > 1:
        numbers = [each and each.number for each in successors]
        message = f"refreshes of token {token.number} returned the tokens {numbers}"
        context.violations.append(Violation("I6", message, now()))


async def _expect_active(context: FaultContext, tokens: Sequence[ClientToken]) -> None:
    """Report a violation for each session that has ended."""
    query = "SELECT id::text, revoked_reason FROM sessions WHERE id = ANY($1::uuid[])"
    async with connect_as_superuser(context.postgres) as connection:
        rows = await connection.fetch(query, [token.session for token in tokens])
    for row in rows:
        if row["revoked_reason"] is not None:
            message = f"session {row['id']} was ended behind a lock: {row['revoked_reason']}"
            context.violations.append(Violation("I2", message, now()))
