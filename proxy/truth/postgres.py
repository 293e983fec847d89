"""The truth in a Postgres."""

from proxy.settings.sections import PostgresSection
from proxy.stores.postgres import PostgresStore
from proxy.stores.postgres_analytics import PostgresAnalytics
from proxy.stores.postgres_audit import PostgresAudit
from proxy.stores.postgres_database import PostgresDatabase, lookups_at_once
from proxy.stores.postgres_locks import PostgresLocks
from proxy.stores.postgres_logouts import PostgresLogouts
from proxy.truth import Truth


async def open_postgres(url: str, how: PostgresSection) -> Truth:
    """Open a pool of connections, of which none is made yet."""
    database = await PostgresDatabase.open(
        url, pool_max=how.pool_max, prepared_statements=how.prepared_statements
    )
    sessions = PostgresStore(database)
    return Truth(
        name="postgres",
        sessions=sessions,
        audit=PostgresAudit(database),
        analytics=PostgresAnalytics(database),
        locks=PostgresLocks(database),
        logouts=PostgresLogouts(database),
        lookups_at_once=lookups_at_once(how.pool_max),
        check=sessions.check_schema,
        now=sessions.now,
    )
