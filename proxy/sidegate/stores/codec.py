"""The record of a session in a cache: a sortable header with its freshness, then the session.

The header is 39 digits: revoked (1), version (19), last seen in microseconds since 1970 (19). Two
headers compare as text as their sessions compare by freshness, so that a script inside Redis can
keep the fresher one. The body is a msgpack array: a newer writer may append fields, which an older
reader skips. Every record contains the digest that it belongs to.
"""

from datetime import datetime, timedelta
from typing import Final, cast

import msgspec

from sidegate.core.binding import Binding
from sidegate.core.digest import Digest
from sidegate.core.errors import UnreadableRecord
from sidegate.core.session import EPOCH, Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.stores.interning import intern_idle_timeout, intern_scopes, intern_timestamp

HEADER_SIZE: Final = 39
_DIGEST_SIZE: Final = 32
_MAX_VERSION: Final = 2**63 - 1  # a bigint
_MICROSECOND: Final = timedelta(microseconds=1)


class _Body(msgspec.Struct, array_like=True, frozen=True):
    digest: bytes
    id: str
    user_id: str
    type: SessionType
    scopes: tuple[str, ...]
    created_at: datetime
    authenticated_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    idle_timeout: int | None  # microseconds
    revoked_at: datetime | None
    previous_digest: bytes | None
    previous_until: datetime | None
    version: int
    binding: tuple[tuple[str, bytes], ...] = ()
    token_seen: bool | None = None


_encode_body = msgspec.msgpack.Encoder().encode
_decode_body = msgspec.msgpack.Decoder(_Body).decode


def to_microseconds(timestamp: datetime) -> int:
    """Return whole microseconds since 1970, exactly (a float would round)."""
    return (timestamp - EPOCH) // _MICROSECOND


def encode(session: Session) -> bytes:
    """Return the record of `session`: under 500 bytes, unless it has many scopes."""
    body = _Body(
        digest=session.digest,
        id=session.id,
        user_id=session.user_id,
        type=session.type,
        scopes=session.scopes,
        created_at=session.created_at,
        authenticated_at=session.authenticated_at,
        last_seen_at=session.last_seen_at,
        expires_at=session.expires_at,
        idle_timeout=None if session.idle_timeout is None else session.idle_timeout // _MICROSECOND,
        revoked_at=session.revoked_at,
        previous_digest=session.previous_digest,
        previous_until=None if session.previous_digest is None else session.previous_until,
        version=session.version,
        binding=tuple(session.binding.pairs()),
        token_seen=session.token_seen,
    )
    return _encode_header(session) + _encode_body(body)


def decode(record: bytes) -> Session:
    """Return the session of a record. Raise UnreadableRecord if `encode` did not write it."""
    try:
        body = _decode_body(record[HEADER_SIZE:])
        session = _build_session(body)
        if record[:HEADER_SIZE] != _encode_header(session):
            raise UnreadableRecord("header and body disagree")
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
        raise UnreadableRecord(type(error).__name__) from None
    except OverflowError:
        raise UnreadableRecord("timestamp out of range") from None
    return session


def _encode_header(session: Session) -> bytes:
    revoked, version, last_seen_at = session.freshness
    return b"%d%019d%019d" % (revoked, version, to_microseconds(last_seen_at))


def _build_session(body: _Body) -> Session:
    _validate(body)
    return Session(
        id=SessionId(body.id),
        digest=Digest(body.digest),
        user_id=body.user_id,
        type=body.type,
        scopes=intern_scopes(body.scopes),
        created_at=body.created_at,
        authenticated_at=intern_timestamp(body.authenticated_at, body.created_at),
        last_seen_at=intern_timestamp(body.last_seen_at, body.created_at),
        expires_at=body.expires_at,
        idle_timeout=_read_idle_timeout(body),
        revoked_at=body.revoked_at,
        previous_digest=cast("Digest | None", body.previous_digest),
        previous_until=body.previous_until or EPOCH,
        version=body.version,
        binding=Binding.pack(body.binding),
        # Missing in records of older servers: unseen costs one touch, seen hides a theft.
        token_seen=body.previous_digest is None if body.token_seen is None else body.token_seen,
    )


def _validate(body: _Body) -> None:
    """Raise UnreadableRecord for values that could not be compared, or stored in the database."""
    if not 1 <= body.version <= _MAX_VERSION:
        raise UnreadableRecord("version out of range")
    required = (body.created_at, body.authenticated_at, body.last_seen_at, body.expires_at)
    for timestamp in (*required, body.revoked_at, body.previous_until):
        if timestamp is not None and timestamp.tzinfo is None:
            raise UnreadableRecord("timestamp without a time zone")
    for digest in (body.digest, body.previous_digest):
        if digest is not None and len(digest) != _DIGEST_SIZE:
            raise UnreadableRecord("digest of the wrong length")


def _read_idle_timeout(body: _Body) -> timedelta | None:
    if body.idle_timeout is None:
        return None
    idle_timeout = intern_idle_timeout(body.idle_timeout)
    _ = body.last_seen_at + idle_timeout  # raises OverflowError here, not when it is judged
    return idle_timeout
