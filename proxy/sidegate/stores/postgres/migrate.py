"""Migrations of a Postgres database. (A SQLite file is migrated when it is opened.)"""

from typing import TYPE_CHECKING, Final

from sidegate.stores.postgres.connector import connect
from sidegate.stores.sql.migrations import CREATE_MIGRATIONS_TABLE, SELECT_APPLIED, list_pending

if TYPE_CHECKING:
    from sidegate.stores.postgres.connection import Connection

# "SIDEGATE" in ASCII: the advisory lock that serializes concurrent migrations.
_LOCK: Final = int.from_bytes(b"SIDEGATE")


async def migrate_postgres(dsn: str) -> list[str]:
    """Apply the missing migrations and return their names. Safe to run concurrently.

    Raise SchemaMismatch if the database is newer than this program. Raise StoreUnavailable if it
    does not answer: each file is applied whole or not at all, so run it again.
    """
    applied: list[str] = []
    async with connect(dsn) as connection:
        while name := await _apply_next(connection):
            applied.append(name)
    return applied


async def list_pending_postgres(dsn: str) -> list[str]:
    """Return the names of the migrations that `migrate_postgres` would apply; raise as it does."""
    async with connect(dsn) as connection:
        return await list_missing(connection)


async def list_missing(connection: "Connection") -> list[str]:
    """Return the names of the migrations that the connected database lacks."""
    has_table = await connection.fetchval("SELECT to_regclass('sidegate_migrations') IS NOT NULL")
    rows = await connection.fetch(SELECT_APPLIED) if has_table else []
    return [migration.name for migration in list_pending("postgres", (row["name"] for row in rows))]


async def _apply_next(connection: "Connection") -> str | None:
    # Read committed: after waiting for the lock it has to see what its holder has applied.
    async with connection.transaction(isolation="read_committed"):
        # Held until the transaction ends: behind a pooler clients would share a session lock.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(CREATE_MIGRATIONS_TABLE)
        rows = await connection.fetch(SELECT_APPLIED)
        migrations = list_pending("postgres", (row["name"] for row in rows))
        if not migrations:
            return None
        await connection.execute(migrations[0].sql)
        await connection.execute("INSERT INTO sidegate_migrations VALUES ($1)", migrations[0].name)
        return migrations[0].name
