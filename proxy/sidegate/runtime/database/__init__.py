"""Open the stores of the configured database.

A driver takes megabytes, so only the configured one is imported.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from sidegate.core.postgres_url import parse_postgres_url
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
    """The stores of one database, and its name for metrics and problems.

    Closing `sessions` closes the database for all stores. At most `max_lookup_batches` batches of
    lookups may be in flight. `check_schema` raises SchemaMismatch if the tables are older or newer
    than this program, and StoreUnavailable if the database does not answer. `now` returns the
    database's time; None means that the machine's clock is used.
    """

    name: str
    sessions: DurableStore
    audit: AuditLog
    analytics: AnalyticsStore
    locks: SessionLocks
    logout_tokens: LogoutTokenStore
    max_lookup_batches: int
    check_schema: Callable[[], Awaitable[None]]
    now: Callable[[], Awaitable[datetime]] | None = None


async def open_database(settings: Settings) -> Database:
    """Open the database of the settings. It need not answer yet."""
    if settings.database_url is None:
        from sidegate.runtime.database.sqlite import open_sqlite

        return await open_sqlite(settings.data_dir)
    from sidegate.runtime.database.postgres import open_postgres

    return await open_postgres(settings.database_url.get_secret_value(), settings.postgres)


def describe_database(settings: Settings) -> str:
    """Return where the database of the settings is, without user, password and parameters."""
    if settings.database_url is None:
        return f"SQLite in {settings.data_dir}"
    url = parse_postgres_url(settings.database_url.get_secret_value())
    return f"postgresql://{','.join(map(str, url.hosts))}/{url.database}"


async def run_migrations(settings: Settings) -> list[str]:
    """Apply the missing migrations and return their names."""
    if settings.database_url is None:
        database = await open_database(settings)  # opening SQLite migrates it
        await database.sessions.close()
        return []
    from sidegate.stores.postgres.migrate import migrate_postgres

    return await migrate_postgres(settings.database_url.get_secret_value())
