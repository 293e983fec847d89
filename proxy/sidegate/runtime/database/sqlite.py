"""The truth in an SQLite file."""

from pathlib import Path

from sidegate.runtime.database import Database
from sidegate.stores.sqlite.analytics import SqliteAnalytics
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.logout_tokens import SqliteLogoutTokens
from sidegate.stores.sqlite.sessions import SqliteSessions


async def open_sqlite(directory: Path) -> Database:
    """Open the file, or make it; its tables are brought up to date on the way."""
    file = await SqliteDatabase.open(directory / "sidegate.db")
    return Database(
        name="sqlite",
        sessions=SqliteSessions(file),
        audit=SqliteAudit(file),
        analytics=SqliteAnalytics(file),
        locks=SqliteLocks(file),
        logouts=SqliteLogoutTokens(file),
        lookups_at_once=1,  # it has one connection for them
        check=_fits,
    )


async def _fits() -> None:
    """What has been opened fits."""
