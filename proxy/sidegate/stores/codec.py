"""The record of a session in a cache: a sortable header with its freshness, then the session.

The header is 39 digits: revoked (1), version (19), last seen in microseconds since 1970 (19). Two
headers compare as text as their sessions compare by freshness, so that a script inside Redis can
keep the fresher one. The body is a msgpack array: a newer writer may append fields, which an older
reader skips. Every record contains the digest that it belongs to.
"""

from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec

from sidegate.core.binding import Binding
from sidegate.core.digest import Digest
from sidegate.core.errors import UnreadableRecord
from sidegate.core.session import EPOCH, Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.stores.interning import intern_idle_timeout, intern_scopes, intern_timestamp

HEADER_SIZE: Final = 39
_MICROSECOND: Final = timedelta(microseconds=1)


_Timestamp = Annotated[datetime, msgspec.Meta(tz=True)]  # others could not be compared
_StoredDigest = Annotated[Digest, msgspec.Meta(min_length=32, max_length=32)]
_Version = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]  # a bigint


class _Body(msgspec.Struct, array_like=True, gc=False):
    digest: _StoredDigest
    id: SessionId
    user_id: str
    type: SessionType
    scopes: tuple[str, ...]
    created_at: _Timestamp
    authenticated_at: _Timestamp
    last_seen_at: _Timestamp
    expires_at: _Timestamp
    idle_timeout: int | None  # microseconds
    revoked_at: _Timestamp | None
    previous_digest: _StoredDigest | None
    previous_until: _Timestamp | None
    version: _Version
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
    created_at, token_seen = body.created_at, body.token_seen
    if token_seen is None:
        # Missing in records of older servers: unseen costs one touch, seen hides a theft.
        token_seen = body.previous_digest is None
    # By position, in the order of the fields: names would take a third of the time again.
    return Session(
        body.id,
        body.digest,
        body.user_id,
        body.type,
        intern_scopes(body.scopes),
        created_at,
        intern_timestamp(body.authenticated_at, created_at),
        intern_timestamp(body.last_seen_at, created_at),
        body.expires_at,
        _read_idle_timeout(body),
        body.revoked_at,
        body.previous_digest,
        body.previous_until or EPOCH,
        body.version,
        Binding.pack(body.binding),
        token_seen,
    )


def _read_idle_timeout(body: _Body) -> timedelta | None:
    if body.idle_timeout is None:
        return None
    idle_timeout = intern_idle_timeout(body.idle_timeout)
    _ = body.last_seen_at + idle_timeout  # raises OverflowError here, not when it is judged
    return idle_timeout
