"""The record a hot store keeps: a sortable head that says how fresh it is, then the session.

The head is 39 digits: ended (1), version (19), last seen in microseconds since 1970 (19). Two heads
compare as text just as two sessions compare by freshness, which is what lets a script inside Redis
keep the fresher. The body is msgpack, an array: a newer writer may add fields at its end, and an
older reader skips them. Every record names the digest it answers for.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, cast

import msgspec

from sidegate.core.binding import Binding
from sidegate.core.errors import UnreadableRecord
from sidegate.core.session import NEVER, Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest
from sidegate.stores import interning as shared

HEAD: Final = 39
_DIGEST: Final = 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
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


_encode_body = msgspec.msgpack.Encoder().encode
_decode_body = msgspec.msgpack.Decoder(_Body).decode


def microseconds(moment: datetime) -> int:
    """Return whole microseconds since 1970, exactly (a float would round)."""
    return (moment - _EPOCH) // _MICROSECOND


def encode(session: Session) -> bytes:
    """Return the record of `session`, under 500 bytes unless its scopes are many."""
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
    )
    return _head(session) + _encode_body(body)


def decode(record: bytes) -> Session:
    """Return the session of a record. UnreadableRecord: it is not one that `encode` wrote."""
    try:
        body = _decode_body(record[HEAD:])
        session = _session(body)
        if record[:HEAD] != _head(session):
            raise UnreadableRecord("head and body disagree")
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
        raise UnreadableRecord(type(error).__name__) from None
    except OverflowError:
        raise UnreadableRecord("a time out of range") from None
    return session


def _head(session: Session) -> bytes:
    ended, version, last_seen_at = session.freshness
    return b"%d%019d%019d" % (ended, version, microseconds(last_seen_at))


def _session(body: _Body) -> Session:
    _must_make_sense(body)
    return Session(
        id=SessionId(body.id),
        digest=Digest(body.digest),
        user_id=body.user_id,
        type=body.type,
        scopes=shared.scopes(body.scopes),
        created_at=body.created_at,
        authenticated_at=shared.timestamp(body.authenticated_at, body.created_at),
        last_seen_at=shared.timestamp(body.last_seen_at, body.created_at),
        expires_at=body.expires_at,
        idle_timeout=_idle_timeout(body),
        revoked_at=body.revoked_at,
        previous_digest=cast("Digest | None", body.previous_digest),
        previous_until=body.previous_until or NEVER,
        version=body.version,
        binding=Binding.of(body.binding),
    )


def _must_make_sense(body: _Body) -> None:
    """Whoever judges the session compares these, and a comparison must not fail there."""
    moments = (body.created_at, body.authenticated_at, body.last_seen_at, body.expires_at)
    for moment in (*moments, body.revoked_at, body.previous_until):
        if moment is not None and moment.tzinfo is None:
            raise UnreadableRecord("a time without a zone")
    for digest in (body.digest, body.previous_digest):
        if digest is not None and len(digest) != _DIGEST:
            raise UnreadableRecord("a digest of another length")


def _idle_timeout(body: _Body) -> timedelta | None:
    if body.idle_timeout is None:
        return None
    silence = shared.idle_timeout(body.idle_timeout)
    _ = body.last_seen_at + silence  # OverflowError, now rather than when it is judged
    return silence
