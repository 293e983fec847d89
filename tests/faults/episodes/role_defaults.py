"""Episodes in which the database role of Sidegate has defaults that weaken its transactions."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from tests.faults.context import Episode, FaultContext, run_in_thread
from tests.faults.deployment import connect_as_superuser
from tests.faults.episodes.clients import expect_limits
from tests.faults.history import TokenCategory, now
from tests.faults.load import LIMIT
from tests.faults.population import ClientToken
from tests.faults.revocations import check_everywhere, retire_all
from tests.faults.rules import Violation
from tests.support.processes import Server

_HOLD_TIME: Final = 8.0

# Users who log in at once, and how often: with snapshots each log-in sees the same sessions.
_USERS: Final = 10
_LOGINS: Final = 8

# Kills of Postgres, each just after a revocation and a log-in.
_KILLS: Final = 3

# Seconds until the instances have connected again.
_SETTLE_TIME: Final = 2.0

# Settings of the server with which an asynchronous commit stays in its memory for long.
_LAZY_WRITER: Final = {"wal_writer_delay": "'10s'", "wal_writer_flush_after": "'2GB'"}

_TIMEOUTS: Final = {
    "statement_timeout": "'40ms'",
    "lock_timeout": "'10ms'",
    "idle_in_transaction_session_timeout": "'20ms'",
}


def isolate(level: str) -> Episode:
    """Log users in concurrently while transactions have another isolation level by default."""

    async def episode(context: FaultContext) -> None:
        async with _role_defaults(context, {"default_transaction_isolation": f"'{level}'"}):
            await asyncio.gather(*(_log_in_at_once(context) for _ in range(_USERS)))
            await context.wait(_HOLD_TIME)
        await expect_limits(context)

    return episode


async def set_timeouts(context: FaultContext) -> None:
    """Statements, locks and transactions have short timeouts by default."""
    async with _role_defaults(context, _TIMEOUTS):
        await asyncio.gather(*(_log_in_at_once(context) for _ in range(_USERS)))
        await context.wait(_HOLD_TIME)
    await expect_limits(context)


async def commit_asynchronously(context: FaultContext) -> None:
    """kill -9 of Postgres just after changes were acknowledged, several times."""
    revoked = list[ClientToken]()
    async with (
        _server_settings(context.postgres, _LAZY_WRITER),
        _role_defaults(context, {"synchronous_commit": "off"}),
    ):
        for _ in range(_KILLS):
            await context.wait(_SETTLE_TIME)
            revoked += await _change_and_kill(context)
    await retire_all(context, revoked)


async def _log_in_at_once(context: FaultContext) -> None:
    user = f"limited-{context.random.randrange(10**9)}"
    client = context.load.admin_client
    logins = (client.create(user, type_="mobile", limit=LIMIT) for _ in range(_LOGINS))
    tokens = await asyncio.gather(*logins)
    context.load.population.at_limit.extend(token for token in tokens if token is not None)


async def _change_and_kill(context: FaultContext) -> list[ClientToken]:
    """Revoke a session, log a user in, and kill Postgres; return the tokens of ended sessions.

    Both have to be in the database when it is back.
    """
    [token] = context.load.population.take_many(1)
    await check_everywhere(context, [token], TokenCategory.WARM)
    await context.load.admin_client.revoke_until_confirmed(token)
    created = await context.load.admin_client.create(context.load.population.pick_user())
    await run_in_thread(context.postgres.kill)
    await run_in_thread(context.postgres.child.start)
    async with connect_as_superuser(context.postgres) as connection:
        query = "SELECT revoked_at IS NOT NULL FROM sessions WHERE id = $1"
        if not await connection.fetchval(query, token.session):
            _violate(context, "a revocation")
        if created is not None and await connection.fetchval(query, created.session) is None:
            _violate(context, "a log-in")
    if created is not None:
        context.load.population.add(created)
    return [token]


def _violate(context: FaultContext, change: str) -> None:
    message = f"{change} was acknowledged, and is lost with a kill -9 of Postgres"
    context.violations.append(Violation("I5", message, now()))


@asynccontextmanager
async def _role_defaults(context: FaultContext, settings: Mapping[str, str]) -> AsyncIterator[None]:
    """Set defaults of the role for the connections that are opened during the block."""
    try:
        async with connect_as_superuser(context.postgres) as connection:
            for name, value in settings.items():
                await connection.execute(f"ALTER ROLE postgres SET {name} = {value}")
        await _expect_defaults(context, settings)
        context.postgres_proxy.reset_connections()
        await asyncio.sleep(_SETTLE_TIME)
        yield
    finally:
        async with connect_as_superuser(context.postgres) as connection:
            await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
            for name in settings:
                await connection.execute(f"ALTER ROLE postgres RESET {name}")
        context.postgres_proxy.reset_connections()


async def _expect_defaults(context: FaultContext, settings: Mapping[str, str]) -> None:
    async with connect_as_superuser(context.postgres) as connection:
        for name, value in settings.items():
            shown = await connection.fetchval(f"SHOW {name}")
            context.expect(f"{name} is {shown}", observed=shown == value.strip("'"))


@asynccontextmanager
async def _server_settings(postgres: Server, settings: Mapping[str, str]) -> AsyncIterator[None]:
    async with connect_as_superuser(postgres) as connection:
        for name, value in settings.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = {value}")
        await connection.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        async with connect_as_superuser(postgres) as connection:
            for name in settings:
                await connection.execute(f"ALTER SYSTEM RESET {name}")
            await connection.execute("SELECT pg_reload_conf()")


EPISODES: Final = (
    ("repeatable read", isolate("repeatable read")),
    ("serializable", isolate("serializable")),
    ("timeouts", set_timeouts),
    ("synchronous_commit off", commit_asynchronously),
)
