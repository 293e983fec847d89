"""The truth in a Postgres."""

from sidegate.runtime.database import Database
from sidegate.settings.sections import PostgresSection
from sidegate.stores.postgres.analytics import PostgresAnalytics
from sidegate.stores.postgres.audit import PostgresAudit
from sidegate.stores.postgres.database import PostgresDatabase, lookups_at_once
from sidegate.stores.postgres.locks import PostgresLocks
from sidegate.stores.postgres.logout_tokens import PostgresLogoutTokens
from sidegate.stores.postgres.sessions import PostgresSessions


async def open_postgres(url: str, how: PostgresSection) -> Database:
    """Open a pool of connections, of which none is made yet."""
    database = await PostgresDatabase.open(
        url, pool_max=how.pool_max, prepared_statements=how.prepared_statements
    )
    sessions = PostgresSessions(database)
    return Database(
        name="postgres",
        sessions=sessions,
        audit=PostgresAudit(database),
        analytics=PostgresAnalytics(database),
        locks=PostgresLocks(database),
        logouts=PostgresLogoutTokens(database),
        lookups_at_once=lookups_at_once(how.pool_max),
        check=sessions.check_schema,
        now=sessions.now,
    )
