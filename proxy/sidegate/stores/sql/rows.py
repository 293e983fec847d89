"""Session rows: the columns and the conversions that Postgres and SQLite share."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from sidegate.core.actor import Actor, Change
from sidegate.core.binding import UNBOUND, Binding
from sidegate.core.client_ip import to_sort_key
from sidegate.core.digest import Digest
from sidegate.core.errors import UnreadableRecord
from sidegate.core.protocols import Cursor, RotatedOut
from sidegate.core.session import EPOCH, Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.stores import interning

Row = Mapping[str, Any]
"""Column to value. A timestamp is an aware datetime or microseconds since 1970; scopes are a list
or JSON text; idle_timeout is in microseconds; metadata and binding are JSON text. `changed_xid`,
which the database sets, is null in sessions not changed since before migration 0012."""

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
    "token_seen",
)
RECORD_COLUMNS: Final = (
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
    "idempotency_key_hash",
    "tenant",
    "provider_subject",
    "changed_at",
    "changed_by",
    "changed_from",
    "ip_key",
)
ACTIVITY_COLUMNS: Final = frozenset({"last_seen_at", "access_count"})
"""The columns a touch changes without a new version: a replace raises them, never lowers them."""

LIST_START: Final = Cursor(
    datetime.max.replace(tzinfo=UTC), SessionId("ffffffff-ffff-ffff-ffff-ffffffffffff")
)
"""The cursor of the first page of any list."""

# Visible in every snapshot.
_FIRST_XID: Final = 1

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_log: Final = logging.getLogger("sidegate.stores")


def is_canonical(session_id: str) -> bool:
    """Return whether the id is a UUID in its canonical form."""
    try:
        return str(UUID(session_id)) == session_id
    except ValueError:
        return False


def require_canonical(session_id: SessionId) -> SessionId:
    """Return the id. Raise ValueError if it is not a UUID in its canonical form."""
    if not is_canonical(session_id):
        raise ValueError("a session id must be a UUID in its canonical form")
    return session_id


def encode_record(record: SessionRecord) -> dict[str, Any]:
    """Return the values by column, in the order of RECORD_COLUMNS.

    Raise ValueError if a value cannot be stored.
    """
    session, details = record.session, record.details
    values = {
        "id": require_canonical(session.id),
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
        "binding": _encode_binding(session.binding),
        "token_seen": session.token_seen,
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
        "idempotency_key_hash": details.idempotency_key_hash,
        "tenant": details.tenant,
        "provider_subject": details.provider_subject,
        "changed_at": None if details.change is None else details.change.at,
        "changed_by": None if details.change is None else details.change.by.name,
        "changed_from": None if details.change is None else details.change.by.source,
        "ip_key": to_sort_key(details.ip),
    }
    if any(isinstance(value, datetime) and value.tzinfo is None for value in values.values()):
        raise ValueError("a timestamp has no time zone")  # drivers would assume local time
    return values


def decode_session(row: Row) -> Session:
    """Decode a session. Raise UnreadableRecord if the row contains none."""
    try:
        return _build_session(row)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _build_error(row, error) from None


def decode_record(row: Row) -> SessionRecord:
    """Decode a session with its details. Raise UnreadableRecord if the row contains none."""
    session = decode_session(row)
    try:
        return SessionRecord(session, _decode_details(row))
    except (KeyError, TypeError, ValueError) as error:
        raise _build_error(row, error) from None


def decode_rotated_out(row: Row) -> RotatedOut:
    """Decode a digest that was rotated out."""
    return RotatedOut(decode_timestamp(row["valid_until"]), row["nonce"])


def decode_readable_sessions(rows: Iterable[Row]) -> Iterator[Session]:
    """Yield the sessions of all readable rows, and log the others.

    For changes: one unreadable row must not block the changes of other sessions.
    """
    for row in rows:
        try:
            yield decode_session(row)
        except UnreadableRecord as unreadable:
            log_skipped(unreadable)


def log_skipped(unreadable: UnreadableRecord) -> None:
    """Log that the change of an unreadable session is skipped."""
    _log.error("session change skipped", extra={"reason": str(unreadable)})


def decode_copies(rows: Iterable[Row], digests: Sequence[Digest]) -> dict[Digest, Session]:
    """Return the copies for those `digests` that the rows contain."""
    requested = set(digests)
    copies = (copy for row in rows for copy in _decode_row_copies(row))
    return {copy.digest: copy for copy in copies if copy.digest in requested}


def _decode_row_copies(row: Row) -> tuple[Session, ...]:
    """Return the copies of the session, or the one copy for a digest that was rotated out."""
    session = decode_session(row)
    rotated = row["rotated_digest"]
    return session.copies() if rotated is None else (session.rotated_out(decode_digest(rotated)),)


def _build_session(row: Row) -> Session:
    idle_timeout, previous = row["idle_timeout"], row["previous_digest"]
    created_at = decode_timestamp(row["created_at"])
    return Session(
        id=SessionId(str(row["id"])),
        digest=decode_digest(row["digest"]),
        user_id=row["user_id"],
        type=SessionType(row["type"]),
        scopes=interning.intern_scopes(_decode_scopes(row["scopes"])),
        created_at=created_at,
        authenticated_at=interning.intern_timestamp(
            decode_timestamp(row["authenticated_at"]), created_at
        ),
        last_seen_at=interning.intern_timestamp(decode_timestamp(row["last_seen_at"]), created_at),
        expires_at=decode_timestamp(row["expires_at"]),
        idle_timeout=None if idle_timeout is None else interning.intern_idle_timeout(idle_timeout),
        revoked_at=None if row["revoked_at"] is None else decode_timestamp(row["revoked_at"]),
        previous_digest=None if previous is None else decode_digest(previous),
        previous_until=EPOCH if previous is None else decode_timestamp(row["previous_until"]),
        version=row["version"],
        binding=_decode_binding(row["binding"]),
        token_seen=bool(row["token_seen"]),
        changed_xid=_FIRST_XID if row["changed_xid"] is None else row["changed_xid"],
    )


def _decode_details(row: Row) -> SessionDetails:
    metadata = json.loads(row["metadata"])
    if not isinstance(metadata, dict):
        raise TypeError("metadata is not an object")
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
        idempotency_key_hash=row["idempotency_key_hash"],
        tenant=row["tenant"],
        provider_subject=row["provider_subject"],
        change=_decode_change(row),
    )


def _decode_change(row: Row) -> Change | None:
    if row["changed_at"] is None:
        return None
    return Change(
        decode_timestamp(row["changed_at"]), Actor(row["changed_by"], row["changed_from"])
    )


def decode_digest(value: bytes) -> Digest:
    """Decode the digest of a column. Raise ValueError if it is none."""
    if len(value) != 32:
        raise ValueError("a digest does not have 32 bytes")
    return Digest(value)


def decode_timestamp(value: datetime | int) -> datetime:
    """Decode the timestamp of a column. Raise ValueError if it is out of range."""
    if isinstance(value, int):
        return _EPOCH + value * _MICROSECOND
    if value.tzinfo is None:  # as drivers represent infinity
        raise ValueError("a timestamp is out of range")
    return value


def _decode_scopes(value: Sequence[object] | str) -> tuple[str, ...]:
    scopes = json.loads(value) if isinstance(value, str) else value
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise TypeError("scopes are not a list of text")
    return tuple(scopes)


def _encode_binding(binding: Binding) -> str | None:
    return (
        json.dumps({signal: digest.hex() for signal, digest in binding.pairs()})
        if binding
        else None
    )


def _decode_binding(value: str | None) -> Binding:
    if value is None:
        return UNBOUND
    digests = json.loads(value)
    if not isinstance(digests, dict):
        raise TypeError("the binding is not an object")
    return Binding.pack((signal, bytes.fromhex(digest)) for signal, digest in digests.items())


def _build_error(row: Row, error: Exception) -> UnreadableRecord:
    return UnreadableRecord(f"row of session {row['id']}: {type(error).__name__}")
