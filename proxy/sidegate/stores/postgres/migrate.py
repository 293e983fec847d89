"""Bring the tables of a Postgres up to what this program works with. (SQLite does so by itself.)"""

from typing import TYPE_CHECKING, Final

from sidegate.stores.postgres.connection import connect
from sidegate.stores.sql.migrations import NOTED, NOTES, pending

if TYPE_CHECKING:
    from sidegate.stores.postgres.connection import Connection

# "SIDEGATE" in ASCII. Whoever migrates holds this advisory lock, so that two wait for each other.
_LOCK: Final = int.from_bytes(b"SIDEGATE")


async def migrate_postgres(dsn: str) -> list[str]:
    """Apply what is missing and return its names. Safe to run in many places at once.

    SchemaMismatch: the database is newer than this program. StoreUnavailable: it did not answer;
    each file is applied whole or not at all, so run it again.
    """
    done: list[str] = []
    async with connect(dsn) as connection:
        while name := await _apply_next(connection):
            done.append(name)
    return done


async def pending_postgres(dsn: str) -> list[str]:
    """Return the names of what `migrate_postgres` would apply. Fails as it does."""
    async with connect(dsn) as connection:
        return await lacking(connection)


async def lacking(connection: "Connection") -> list[str]:
    """Return the names of the migrations that the database at the other end lacks."""
    noted = await connection.fetchval("SELECT to_regclass('sidegate_migrations') IS NOT NULL")
    rows = await connection.fetch(NOTED) if noted else []
    return [migration.name for migration in pending("postgres", (row["name"] for row in rows))]


async def _apply_next(connection: "Connection") -> str | None:
    async with connection.transaction():
        # Held until the transaction ends: behind a pooler a session's lock would be anybody's.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(NOTES)
        rows = await connection.fetch(NOTED)
        migrations = pending("postgres", (row["name"] for row in rows))
        if not migrations:
            return None
        await connection.execute(migrations[0].sql)
        await connection.execute("INSERT INTO sidegate_migrations VALUES ($1)", migrations[0].name)
        return migrations[0].name
