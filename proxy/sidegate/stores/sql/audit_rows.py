"""Audit events as rows: what the tables of Postgres and SQLite have in common."""

from typing import Final

from sidegate.core.actor import Actor
from sidegate.core.audit import Action, AuditEvent, AuditFilter, Seal
from sidegate.core.errors import UnreadableRecord
from sidegate.core.session import SessionId
from sidegate.stores.sql.conditions import Asking, Dialect
from sidegate.stores.sql.rows import Row, canonical, moment_of

EVENT: Final = (
    "number, at, action, session_id, version, user_id, type, tenant, actor, source, reason"
)
SEALED: Final = f"{EVENT}, link, hash"

HEAD: Final = (
    "SELECT coalesce(last.link, anchor.link) AS link, coalesce(last.hash, anchor.hash) AS hash"
    " FROM audit_anchor AS anchor LEFT JOIN (SELECT link, hash FROM audit_events"
    " WHERE link IS NOT NULL ORDER BY link DESC LIMIT 1) AS last ON true"
)
ANCHOR: Final = "SELECT link, hash FROM audit_anchor"
OLD: Final = (
    "SELECT number, link, hash FROM (SELECT number, link, hash, min(link) FILTER (WHERE at >= {0})"
    " OVER () AS young FROM (SELECT * FROM audit_events WHERE link IS NOT NULL"
    " ORDER BY link LIMIT {1}) AS oldest) AS aged WHERE young IS NULL OR link < young"
)
"""The beginning of the chain: of its first {1} events those before the first from {0} or later."""


def event_of(row: Row) -> AuditEvent:
    """Return the event a row tells of. UnreadableRecord: a newer version wrote it, or nobody."""
    try:
        return AuditEvent(
            number=row["number"],
            at=moment_of(row["at"]),
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


def seal_of(row: Row) -> Seal:
    """Return the seal in a row."""
    return Seal(row["link"], bytes(row["hash"]))


def events_asked(
    dialect: Dialect, wanted: AuditFilter, *, limit: int, before: int | None
) -> tuple[str, list[object]]:
    """Return the query for a page of events, the newest first, and its arguments."""
    asking = Asking(dialect)
    session_id = None if wanted.session_id is None else canonical(wanted.session_id)
    given = (
        ("session_id = {}", session_id),
        ("user_id = {}", wanted.user_id),
        ("action = {}", wanted.action),
        ("actor = {}", wanted.actor),
        ("at >= {}", wanted.since),
        ("at < {}", wanted.until),
        ("number < {}", before),
    )
    clauses = [text.format(asking.mark(value)) for text, value in given if value is not None]
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    query = (
        f"SELECT {EVENT} FROM audit_events{where}"  # noqa: S608 - of this house's words only
        f" ORDER BY number DESC LIMIT {asking.mark(limit)}"
    )
    return query, asking.arguments
