"""Open the stores of a Postgres database."""

from sidegate.runtime.database import Database
from sidegate.settings.sections import PostgresSection
from sidegate.stores.postgres.analytics import PostgresAnalytics
from sidegate.stores.postgres.audit import PostgresAudit
from sidegate.stores.postgres.database import PostgresDatabase, compute_max_lookups
from sidegate.stores.postgres.locks import PostgresLocks
from sidegate.stores.postgres.logout_tokens import PostgresLogoutTokens
from sidegate.stores.postgres.sessions import PostgresSessions


async def open_postgres(url: str, section: PostgresSection) -> Database:
    """Create a connection pool. No connection is opened yet."""
    database = await PostgresDatabase.open(
        url, pool_max=section.pool_max, prepared_statements=section.prepared_statements
    )
    sessions = PostgresSessions(database)
    return Database(
        name="postgres",
        sessions=sessions,
        audit=PostgresAudit(database),
        analytics=PostgresAnalytics(database),
        locks=PostgresLocks(database),
        logout_tokens=PostgresLogoutTokens(database),
        max_lookup_batches=compute_max_lookups(section.pool_max),
        check_schema=sessions.check_schema,
        now=sessions.now,
    )
