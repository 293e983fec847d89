"""Sessions and their transitions. A transition returns a new value; an ended session has none.

`Session` has what a check needs, and is small enough for caches. `SessionDetails` has everything
else, and is stored in the database only. A `SessionRecord` has both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NewType

import msgspec
from msgspec.structs import replace

from sidegate.core.actor import Change
from sidegate.core.binding import UNBOUND, Binding
from sidegate.core.digest import Digest
from sidegate.core.errors import SessionEnded
from sidegate.core.session_type import SessionType

SessionId = NewType("SessionId", str)
"""UUIDv7 in its canonical text form. Not a credential; may be logged."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Before any clock's time: a deadline at this time has passed on every instance."""


class Session(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A session, as found by `digest`. All times are aware datetimes in UTC.

    After a rotation the previous digest also finds the session, and is valid until
    `previous_until`; the copy found by it has `digest == previous_digest`.

    `token_seen` is whether the current token was presented since a rotation issued it. Until then
    its predecessor gets it again, because the response with it may have been lost.

    `changed_xid` is the transaction that changed it last, if it was read from the database; else 0.
    Sessions that differ in it alone are equal.
    """

    id: SessionId
    digest: Digest
    user_id: str
    type: SessionType
    scopes: tuple[str, ...]
    created_at: datetime
    authenticated_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    idle_timeout: timedelta | None
    revoked_at: datetime | None = None
    previous_digest: Digest | None = None
    previous_until: datetime = EPOCH
    version: int = 1
    binding: Binding = UNBOUND
    token_seen: bool = True
    changed_xid: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Session):
            return NotImplemented
        return _get_compared(self) == _get_compared(other)

    def __hash__(self) -> int:
        return hash((self.id, self.digest, self.version))

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in _SHOWN_FIELDS)
        return f"Session({', '.join(shown)})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [(name, getattr(self, name)) for name in _SHOWN_FIELDS]

    @property
    def freshness(self) -> tuple[bool, int, datetime]:
        """The sort key for copies of one session: tombstone, then version, then last_seen_at."""
        return self.revoked_at is not None, self.version, self.last_seen_at

    @property
    def idle_at(self) -> datetime | None:
        """The idle deadline, or None without an idle timeout."""
        return None if self.idle_timeout is None else self.last_seen_at + self.idle_timeout

    @property
    def valid_until(self) -> datetime:
        """The time from which on this copy is not valid; `judge` gives the reason."""
        if self.revoked_at is not None:
            return EPOCH
        idle_at = self.idle_at
        ends = self.expires_at if idle_at is None else min(self.expires_at, idle_at)
        return min(ends, self.previous_until) if self.digest == self.previous_digest else ends

    @property
    def is_for_current_token(self) -> bool:
        """Whether this copy is for the current digest, not for one that was rotated out."""
        return self.digest != self.previous_digest

    def has_ended(self, at: datetime) -> bool:
        """Return whether the session has ended, as opposed to one of its tokens only."""
        return (
            self.revoked_at is not None
            or at >= self.expires_at
            or (self.idle_at is not None and at >= self.idle_at)
        )

    def copies(self) -> tuple["Session", ...]:
        """Return a copy for each of the current and the previous digest, the current one first."""
        if self.previous_digest is None:
            return (self,)
        return self, replace(self, digest=self.previous_digest)

    def rotated_out(self, digest: Digest) -> "Session":
        """Return the copy for a digest older than the previous one. Its grace has ended."""
        return replace(self, digest=digest, previous_digest=digest, previous_until=EPOCH)

    def touched(self, at: datetime) -> "Session":
        """Return it with activity at `at`. Keeps the version; last_seen_at never decreases."""
        self._require_active(at)
        return replace(self, last_seen_at=max(self.last_seen_at, at))

    def extended(self, until: datetime, at: datetime) -> "Session":
        """Return it with the absolute deadline `until`, if that is later than the present one."""
        self._require_active(at)
        return replace(
            self,
            expires_at=max(self.expires_at, until),
            last_seen_at=max(self.last_seen_at, at),
            version=self.version + 1,
            changed_xid=0,
        )

    def rotated(self, digest: Digest, grace: timedelta, *, at: datetime) -> "Session":
        """Return it with a new digest; the present one stays valid for `grace`."""
        self._require_active(at)
        return replace(
            self,
            digest=digest,
            previous_digest=self.digest,
            previous_until=at + grace,
            last_seen_at=max(self.last_seen_at, at),
            version=self.version + 1,
            token_seen=False,
            changed_xid=0,
        )

    def migrated(self, digest: Digest, at: datetime) -> "Session":
        """Return it as an SSO session with a new digest; the present one ends at once (fixation).

        EPOCH instead of `at`, so that it has ended on instances whose clock is behind, too.
        """
        rotated = self.rotated(digest, timedelta(0), at=at)
        return replace(rotated, type=SessionType.SSO, previous_until=EPOCH, token_seen=True)

    def reauthenticated(
        self, digest: Digest, at: datetime, *, scopes: tuple[str, ...] | None = None
    ) -> "Session":
        """Return it as authenticated at `at`, with a new digest and, if given, other scopes.

        The present digest ends at once, as with `migrated`: who has its token shall not gain.
        """
        rotated = self.rotated(digest, timedelta(0), at=at)
        return replace(
            rotated,
            authenticated_at=max(self.authenticated_at + timedelta.resolution, at),
            scopes=self.scopes if scopes is None else scopes,
            previous_until=EPOCH,
            token_seen=True,
        )

    def updated(self, at: datetime, *, scopes: tuple[str, ...]) -> "Session":
        """Return its next version, with these scopes."""
        self._require_active(at)
        return replace(self, scopes=scopes, version=self.version + 1, changed_xid=0)

    def revoked(self, at: datetime) -> "Session":
        """Return its tombstone, the next and last version."""
        self._require_active(at)
        return replace(self, revoked_at=at, version=self.version + 1, changed_xid=0)

    def tombstone(self, at: datetime) -> "Session":
        """Return it as revoked at `at`, even if it has ended: the change is not committed yet."""
        return replace(self, revoked_at=at, version=self.version + 1)

    def _require_active(self, at: datetime) -> None:
        if self.has_ended(at):
            raise SessionEnded(f"session {self.id} has ended")


_COMPARED_FIELDS: Final = tuple(name for name in Session.__struct_fields__ if name != "changed_xid")
_get_compared: Final = attrgetter(*_COMPARED_FIELDS)
_SHOWN_FIELDS: Final = tuple(name for name in _COMPARED_FIELDS if not name.endswith("digest"))


def pick_fresher(one: Session, other: Session) -> Session:
    """Return the fresher of two copies of a session, the first one if they are equally fresh."""
    return other if other.freshness > one.freshness else one


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """The fields that only the database has. `metadata` is any JSON object up to 16 KiB.

    `rotation_nonce` is the last rotation's: the new token is derived from it and from the token
    presented then, not from it alone. `idempotency_key_hash` (core/idempotency.py) finds the
    session when the request that created it is repeated. `tenant` is a label set by the caller.
    `provider_subject` is the provider's id of the user. `change` is the last change.
    """

    ip: str | None = None
    user_agent: str | None = None
    device: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    access_count: int = 0
    refresh_count: int = 0
    provider: str | None = None
    provider_session_id: str | None = None
    provider_subject: str | None = None
    tenant: str | None = None
    revoked_by: str | None = None
    revoked_reason: str | None = None
    rotation_nonce: bytes | None = field(default=None, repr=False)
    idempotency_key_hash: bytes | None = field(default=None, repr=False)
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session with its details, as stored in the database."""

    session: Session
    details: SessionDetails = field(default_factory=SessionDetails)
