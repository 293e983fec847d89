"""Postgres from behind: a connection of the test's own, and who is waiting there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

Raw = asyncpg.Connection  # generic in the stubs only


@asynccontextmanager
async def raw(url: str) -> AsyncIterator["Raw[asyncpg.Record]"]:
    """Return a connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def the_server_is_waiting(url: str) -> None:
    """Return when one of the server's processes waits for a lock."""
    async with raw(url) as connection, asyncio.timeout(10):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        ):
            pass
