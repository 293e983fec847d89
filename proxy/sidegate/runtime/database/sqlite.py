"""The truth in an SQLite file."""

from pathlib import Path

from sidegate.runtime.database import Truth
from sidegate.stores.sqlite.analytics import SqliteAnalytics
from sidegate.stores.sqlite.audit import SqliteAudit
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.locks import SqliteLocks
from sidegate.stores.sqlite.logout_tokens import SqliteLogouts
from sidegate.stores.sqlite.sessions import SqliteStore


async def open_sqlite(directory: Path) -> Truth:
    """Open the file, or make it; its tables are brought up to date on the way."""
    file = await SqliteDatabase.open(directory / "sidegate.db")
    return Truth(
        name="sqlite",
        sessions=SqliteStore(file),
        audit=SqliteAudit(file),
        analytics=SqliteAnalytics(file),
        locks=SqliteLocks(file),
        logouts=SqliteLogouts(file),
        lookups_at_once=1,  # it has one connection for them
        check=_fits,
    )


async def _fits() -> None:
    """What has been opened fits."""
