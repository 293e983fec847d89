"""The truth in an SQLite file."""

from pathlib import Path

from proxy.stores.sqlite import SqliteStore
from proxy.stores.sqlite_analytics import SqliteAnalytics
from proxy.stores.sqlite_audit import SqliteAudit
from proxy.stores.sqlite_database import SqliteDatabase
from proxy.stores.sqlite_locks import SqliteLocks
from proxy.stores.sqlite_logouts import SqliteLogouts
from proxy.truth import Truth


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
