"""What lives in one database, opened. A driver takes megabytes: only the one is brought in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from sidegate.core.protocols import (
    AnalyticsStore,
    AuditLog,
    DurableStore,
    LogoutTokenStore,
    SessionLocks,
)
from sidegate.settings import Settings


@dataclass(frozen=True)
class Database:
    """The stores of one database, and its name. Whoever closes the sessions closes it for all.

    At most `lookups_at_once` batches of look-ups may be under way. `check` returns when the tables
    fit this program. SchemaMismatch: they are older or newer. StoreUnavailable: nobody knows yet.
    `now` tells the database's time; None: it is this machine's.
    """

    name: str
    sessions: DurableStore
    audit: AuditLog
    analytics: AnalyticsStore
    locks: SessionLocks
    logouts: LogoutTokenStore
    lookups_at_once: int
    check: Callable[[], Awaitable[None]]
    now: Callable[[], Awaitable[datetime]] | None = None


async def open_database(settings: Settings) -> Database:
    """Open the database of the settings, which need not answer yet."""
    if settings.database_url is None:
        from sidegate.runtime.database.sqlite import open_sqlite

        return await open_sqlite(settings.data_dir)
    from sidegate.runtime.database.postgres import open_postgres

    return await open_postgres(settings.database_url.get_secret_value(), settings.postgres)


async def run_migrations(settings: Settings) -> list[str]:
    """Bring the database up to date and return the names of what was applied."""
    if settings.database_url is None:
        truth = await open_database(settings)  # which does so by itself
        await truth.sessions.close()
        return []
    from sidegate.stores.postgres.migrate import migrate_postgres

    return await migrate_postgres(settings.database_url.get_secret_value())
