"""A session as a row: what the tables of Postgres and SQLite have in common."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from sidegate.core.actor import Actor, Change
from sidegate.core.binding import UNBOUND, Binding
from sidegate.core.client_ip import sortable
from sidegate.core.errors import UnreadableRecord
from sidegate.core.protocols import Cursor, RotatedOut
from sidegate.core.session import NEVER, Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest
from sidegate.stores import interning as shared

Row = Mapping[str, Any]
"""Column to value. A moment is aware, or counts microseconds since 1970; scopes are a list, or JSON
text; idle_timeout counts microseconds; metadata and binding are JSON text."""

SESSION_COLUMNS: Final = (
    "id",
    "digest",
    "previous_digest",
    "previous_until",
    "user_id",
    "type",
    "scopes",
    "created_at",
    "authenticated_at",
    "last_seen_at",
    "expires_at",
    "idle_timeout",
    "revoked_at",
    "version",
    "binding",
)
COLUMNS: Final = (
    *SESSION_COLUMNS,
    "ip",
    "user_agent",
    "device",
    "metadata",
    "access_count",
    "refresh_count",
    "provider",
    "provider_session_id",
    "revoked_by",
    "revoked_reason",
    "rotation_nonce",
    "claim",
    "tenant",
    "provider_subject",
    "changed_at",
    "changed_by",
    "changed_from",
    "ip_key",
)
SEEN_COLUMNS: Final = frozenset({"last_seen_at", "access_count"})
"""What a touch changes without a new version: a replace may raise these, never lower them."""

BEYOND_ALL: Final = Cursor(
    datetime.max.replace(tzinfo=UTC), SessionId("ffffffff-ffff-ffff-ffff-ffffffffffff")
)
"""Where the first page of any list begins."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_log: Final = logging.getLogger("sidegate.stores")


def is_canonical(session_id: str) -> bool:
    """Say whether it is a UUID in the one spelling that stores know."""
    try:
        return str(UUID(session_id)) == session_id
    except ValueError:
        return False


def canonical(session_id: SessionId) -> SessionId:
    """Return the id. ValueError: it is none, or spelled in a way that no store would recognise."""
    if not is_canonical(session_id):
        raise ValueError("a session's id is a UUID in its canonical form")
    return session_id


def values_of(record: SessionRecord) -> dict[str, Any]:
    """Return what to store, by column, in the order of COLUMNS. ValueError: it cannot be stored."""
    session, details = record.session, record.details
    values = {
        "id": canonical(session.id),
        "digest": session.digest,
        "previous_digest": session.previous_digest,
        "previous_until": None if session.previous_digest is None else session.previous_until,
        "user_id": session.user_id,
        "type": session.type.value,
        "scopes": list(session.scopes),
        "created_at": session.created_at,
        "authenticated_at": session.authenticated_at,
        "last_seen_at": session.last_seen_at,
        "expires_at": session.expires_at,
        "idle_timeout": None
        if session.idle_timeout is None
        else session.idle_timeout // _MICROSECOND,
        "revoked_at": session.revoked_at,
        "version": session.version,
        "binding": _spelled(session.binding),
        "ip": details.ip,
        "user_agent": details.user_agent,
        "device": details.device,
        "metadata": json.dumps(dict(details.metadata), allow_nan=False),
        "access_count": details.access_count,
        "refresh_count": details.refresh_count,
        "provider": details.provider,
        "provider_session_id": details.provider_session_id,
        "revoked_by": details.revoked_by,
        "revoked_reason": details.revoked_reason,
        "rotation_nonce": details.rotation_nonce,
        "claim": details.idempotency_key_hash,
        "tenant": details.tenant,
        "provider_subject": details.provider_subject,
        "changed_at": None if details.change is None else details.change.at,
        "changed_by": None if details.change is None else details.change.by.name,
        "changed_from": None if details.change is None else details.change.by.source,
        "ip_key": sortable(details.ip),
    }
    if any(isinstance(value, datetime) and value.tzinfo is None for value in values.values()):
        raise ValueError("a moment without a time zone")  # a driver would take it for local time
    return values


def session_of(row: Row) -> Session:
    """Return the session a row tells of. UnreadableRecord: it tells of none."""
    try:
        return _session(row)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _unreadable(row, error) from None


def record_of(row: Row) -> SessionRecord:
    """Return the whole record of a row. UnreadableRecord: there is none in it."""
    session = session_of(row)
    try:
        return SessionRecord(session, _details(row))
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(row, error) from None


def rotated_out_of(row: Row) -> RotatedOut:
    """Return how a digest was rotated out."""
    return RotatedOut(moment_of(row["until"]), row["nonce"])


def readable_sessions(rows: Iterable[Row]) -> Iterator[Session]:
    """Yield the sessions of all rows that can be read, and log the others.

    For news of changes: one broken row must not hold up everybody else's.
    """
    for row in rows:
        try:
            yield session_of(row)
        except UnreadableRecord as unreadable:
            _log.error("left out of the news: %s", unreadable)


def answering(rows: Iterable[Row], digests: Sequence[Digest]) -> dict[Digest, Session]:
    """Return, for each digest that one of the rows answers for, its copy."""
    asked = set(digests)
    copies = (copy for row in rows for copy in _copies(row))
    return {copy.digest: copy for copy in copies if copy.digest in asked}


def _copies(row: Row) -> tuple[Session, ...]:
    """Return the copies a row tells of: those of its session, or the one that was rotated out."""
    session = session_of(row)
    rotated = row["rotated_digest"]
    return session.copies() if rotated is None else (session.rotated_out(_digest(rotated)),)


def _session(row: Row) -> Session:
    idle_timeout, previous = row["idle_timeout"], row["previous_digest"]
    created_at = moment_of(row["created_at"])
    return Session(
        id=SessionId(str(row["id"])),
        digest=_digest(row["digest"]),
        user_id=row["user_id"],
        type=SessionType(row["type"]),
        scopes=shared.scopes(_scopes(row["scopes"])),
        created_at=created_at,
        authenticated_at=shared.timestamp(moment_of(row["authenticated_at"]), created_at),
        last_seen_at=shared.timestamp(moment_of(row["last_seen_at"]), created_at),
        expires_at=moment_of(row["expires_at"]),
        idle_timeout=None if idle_timeout is None else shared.idle_timeout(idle_timeout),
        revoked_at=None if row["revoked_at"] is None else moment_of(row["revoked_at"]),
        previous_digest=None if previous is None else _digest(previous),
        previous_until=NEVER if previous is None else moment_of(row["previous_until"]),
        version=row["version"],
        binding=_binding(row["binding"]),
    )


def _details(row: Row) -> SessionDetails:
    metadata = json.loads(row["metadata"])
    if not isinstance(metadata, dict):
        raise TypeError("metadata that is no object")
    return SessionDetails(
        ip=row["ip"],
        user_agent=row["user_agent"],
        device=row["device"],
        metadata=MappingProxyType(metadata),
        access_count=row["access_count"],
        refresh_count=row["refresh_count"],
        provider=row["provider"],
        provider_session_id=row["provider_session_id"],
        revoked_by=row["revoked_by"],
        revoked_reason=row["revoked_reason"],
        rotation_nonce=row["rotation_nonce"],
        idempotency_key_hash=row["claim"],
        tenant=row["tenant"],
        provider_subject=row["provider_subject"],
        change=_change(row),
    )


def _change(row: Row) -> Change | None:
    if row["changed_at"] is None:
        return None
    return Change(moment_of(row["changed_at"]), Actor(row["changed_by"], row["changed_from"]))


def _digest(value: bytes) -> Digest:
    if len(value) != 32:
        raise ValueError("a digest of another length")
    return Digest(value)


def moment_of(value: datetime | int) -> datetime:
    """Return the moment in a column. ValueError: out of range."""
    if isinstance(value, int):
        return _EPOCH + value * _MICROSECOND
    if value.tzinfo is None:  # how a driver spells infinity
        raise ValueError("a moment out of range")
    return value


def _scopes(value: Sequence[object] | str) -> tuple[str, ...]:
    scopes = json.loads(value) if isinstance(value, str) else value
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise TypeError("scopes that are no list of text")
    return tuple(scopes)


def _spelled(binding: Binding) -> str | None:
    return (
        json.dumps({signal: digest.hex() for signal, digest in binding.pairs()})
        if binding
        else None
    )


def _binding(value: str | None) -> Binding:
    if value is None:
        return UNBOUND
    digests = json.loads(value)
    if not isinstance(digests, dict):
        raise TypeError("a binding that is no object")
    return Binding.of((signal, bytes.fromhex(digest)) for signal, digest in digests.items())


def _unreadable(row: Row, error: Exception) -> UnreadableRecord:
    return UnreadableRecord(f"the row of session {row['id']}: {type(error).__name__}")
