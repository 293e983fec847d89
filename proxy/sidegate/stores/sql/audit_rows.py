"""Audit rows: the SQL and the conversions that Postgres and SQLite share."""

from typing import Final

from sidegate.core.actor import Actor
from sidegate.core.audit import Action, AuditEvent, AuditFilter, Seal
from sidegate.core.errors import UnreadableRecord
from sidegate.core.session import SessionId
from sidegate.stores.sql.conditions import Dialect, QueryBuilder
from sidegate.stores.sql.rows import Row, decode_timestamp, require_canonical

EVENT_COLUMNS: Final = (
    "number, at, action, session_id, version, user_id, type, tenant, actor, source, reason"
)
SEALED_COLUMNS: Final = f"{EVENT_COLUMNS}, link, hash"

SELECT_HEAD: Final = (
    "SELECT coalesce(last.link, anchor.link) AS link, coalesce(last.hash, anchor.hash) AS hash"
    " FROM audit_anchor AS anchor LEFT JOIN (SELECT link, hash FROM audit_events"
    " WHERE link IS NOT NULL ORDER BY link DESC LIMIT 1) AS last ON true"
)
SELECT_ANCHOR: Final = "SELECT link, hash FROM audit_anchor"
SELECT_OLDEST: Final = (
    "SELECT number, link, hash FROM (SELECT number, link, hash, min(link) FILTER (WHERE at >= {0})"
    " OVER () AS first_recent FROM (SELECT * FROM audit_events WHERE link IS NOT NULL"
    " ORDER BY link LIMIT {1}) AS oldest) AS marked"
    " WHERE first_recent IS NULL OR link < first_recent"
)
"""Of the first {1} events of the chain, those before the first that is not older than {0}."""


def decode_event(row: Row) -> AuditEvent:
    """Decode an event. Raise UnreadableRecord if a value is unknown or out of range."""
    try:
        return AuditEvent(
            number=row["number"],
            at=decode_timestamp(row["at"]),
            action=Action(row["action"]),
            session_id=SessionId(str(row["session_id"])),
            version=row["version"],
            user_id=row["user_id"],
            type=row["type"],
            tenant=row["tenant"],
            by=None if row["actor"] is None else Actor(row["actor"], row["source"]),
            reason=row["reason"],
        )
    except (ValueError, OverflowError) as error:
        raise UnreadableRecord(f"audit event {row['number']}: {type(error).__name__}") from None


def decode_seal(row: Row) -> Seal:
    """Decode the seal of an event."""
    return Seal(row["link"], bytes(row["hash"]))


def build_events_query(
    dialect: Dialect, criteria: AuditFilter, *, limit: int, before: int | None
) -> tuple[str, list[object]]:
    """Return the query for a page of events, newest first, and its arguments."""
    builder = QueryBuilder(dialect)
    session_id = None if criteria.session_id is None else require_canonical(criteria.session_id)
    filters = (
        ("session_id = {}", session_id),
        ("user_id = {}", criteria.user_id),
        ("action = {}", criteria.action),
        ("actor = {}", criteria.actor),
        ("at >= {}", criteria.since),
        ("at < {}", criteria.until),
        ("number < {}", before),
    )
    clauses = [clause.format(builder.bind(value)) for clause, value in filters if value is not None]
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    query = (
        f"SELECT {EVENT_COLUMNS} FROM audit_events{where}"  # noqa: S608
        f" ORDER BY number DESC LIMIT {builder.bind(limit)}"
    )
    return query, builder.arguments
