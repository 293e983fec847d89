"""Open the stores of an SQLite file."""

from pathlib import Path

from sidegate.runtime.database import Database
from sidegate.stores.sqlite.analytics import SqliteAnalytics
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.logout_tokens import SqliteLogoutTokens
from sidegate.stores.sqlite.sessions import SqliteSessions


async def open_sqlite(directory: Path) -> Database:
    """Open or create the file, and migrate its tables to the present schema."""
    file = await SqliteDatabase.open(directory / "sidegate.db")
    return Database(
        name="sqlite",
        sessions=SqliteSessions(file),
        audit=SqliteAudit(file),
        analytics=SqliteAnalytics(file),
        locks=SqliteLocks(file),
        logout_tokens=SqliteLogoutTokens(file),
        max_lookup_batches=1,  # one connection serves lookups
        check_schema=_accept_schema,
    )


async def _accept_schema() -> None:
    """Do nothing: opening the file has migrated it."""
