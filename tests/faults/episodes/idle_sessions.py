"""An episode in which sessions are in use at one instance while no use can be written.

To the other instance they look idle when the database is back, and it is asked at once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tests.faults.context import FaultContext
from tests.faults.deployment import connect_as_superuser
from tests.faults.gateway import Upstream
from tests.faults.history import TokenCategory, now
from tests.faults.population import ClientToken
from tests.faults.revocations import revoke_all, wait_until_cached
from tests.stores.sql.tcp_proxy import TcpProxy

_SESSIONS: Final = 20
# Seconds, not scaled: longer than the idle timeout of these sessions (deployment.py).
_OUTAGE_TIME: Final = 20.0
# Seconds by which the instance that has seen the activity recovers later than the other.
_LAG: Final = 1.0
# Seconds for which the other instance is asked: longer than the expected recovery.
_ASKING_TIME: Final = 4.0
_USE_INTERVAL: Final = 0.5
_ASK_INTERVAL: Final = 0.1

_COUNT_IDLE: Final = """
    SELECT count(*) FROM sessions WHERE id = ANY($1::uuid[])
    AND last_seen_at + idle_timeout * interval '1 microsecond' < clock_timestamp()
"""


async def use_without_database(context: FaultContext) -> None:
    """Use sessions at the target during the outage, and at the other instance after it."""
    tokens = [await _create(context) for _ in range(_SESSIONS)]
    await _check_all(context, tokens, at=context.target)
    await wait_until_cached(context, tokens)
    context.mark_started()
    async with _checking(context, tokens, at=context.target):
        async with context.load.without_changes():  # Redis is used until the end of the outage
            _cut(context.postgres_proxy, context.deployment.target_postgres_proxy)
        await asyncio.sleep(_OUTAGE_TIME)
        looking_idle = await _count_idle(context, tokens)
    context.expect("no session looked idle in the database", observed=looking_idle)
    context.load.spawn(_ask_and_revoke(context, tokens))
    context.postgres_proxy.refuse_new = False  # first the instance that has seen nothing
    await asyncio.sleep(_LAG)
    context.deployment.target_postgres_proxy.refuse_new = False


def _cut(*proxies: TcpProxy) -> None:
    for proxy in proxies:
        proxy.refuse_new = True
        proxy.reset_connections()


async def _create(context: FaultContext) -> ClientToken:
    user = f"idle-{context.random.randrange(10**9)}"
    token = await context.load.admin_client.create(user, type_="api")
    assert token is not None
    return token


async def _count_idle(context: FaultContext, tokens: Sequence[ClientToken]) -> int:
    async with connect_as_superuser(context.postgres) as connection:
        sessions = [token.session for token in tokens]
        return int(await connection.fetchval(_COUNT_IDLE, sessions) or 0)


async def _check_all(context: FaultContext, tokens: Sequence[ClientToken], *, at: Upstream) -> None:
    for token in tokens:
        await context.load.gateway.probe(token, TokenCategory.HOT, at=at)


@asynccontextmanager
async def _checking(
    context: FaultContext, tokens: Sequence[ClientToken], *, at: Upstream
) -> AsyncIterator[None]:
    """Check all tokens at one instance again and again during the block."""

    async def check() -> None:
        while True:
            await _check_all(context, tokens, at=at)
            await asyncio.sleep(_USE_INTERVAL)

    checking = asyncio.create_task(check())
    try:
        yield
    finally:
        checking.cancel()
        await asyncio.wait([checking])


async def _ask_and_revoke(context: FaultContext, tokens: Sequence[ClientToken]) -> None:
    """Ask the other instance for a while; end the sessions, which will be in use no more."""
    until = now() + _LAG + _ASKING_TIME
    while now() < until:
        await _check_all(context, tokens, at=context.other)
        await asyncio.sleep(_ASK_INTERVAL)
    await revoke_all(context, tokens)
    for token in tokens:
        context.load.spawn(context.load.retire(token))
