"""A Postgres database in which a change has the time at which its caller asked for it.

Callers in tests have clocks of their own, which the clock of the database does not follow.
"""

import asyncpg

from sidegate.stores.postgres.migrate import migrate_postgres

_FOLLOW_CALLERS = """
    CREATE OR REPLACE FUNCTION sidegate_change_time(p_asked_at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql AS 'BEGIN RETURN p_asked_at; END'
"""
_HAS_TIME = "SELECT to_regprocedure('sidegate_change_time(timestamptz)') IS NOT NULL"


async def migrate_for_test_clock(url: str) -> None:
    """Migrate a database whose stores are given the times of a test."""
    await migrate_postgres(url)
    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval(_HAS_TIME):  # not in a schema of an earlier version
            await connection.execute(_FOLLOW_CALLERS)
    finally:
        await connection.close()
