"""Direct access to Postgres, past the store under test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

RawConnection = asyncpg.Connection  # generic in the stubs only


@asynccontextmanager
async def connect_directly(url: str) -> AsyncIterator["RawConnection[asyncpg.Record]"]:
    """Open a connection that does not belong to the store."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def wait_for_blocked_query(url: str) -> None:
    """Return when a query in the database waits for a lock."""
    async with connect_directly(url) as connection, asyncio.timeout(10):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        ):
            pass
