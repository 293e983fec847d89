"""A session and its transitions: each returns a new value, and an ended session has none.

`Session` is what judging and answering need, small enough for a hot store. `SessionDetails` is
everything else and lives in the durable store only. A `SessionRecord` is both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, NewType

from sidegate.core.actor import Change
from sidegate.core.binding import UNBOUND, Binding
from sidegate.core.errors import SessionEnded
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest

SessionId = NewType("SessionId", str)
"""UUIDv7 in its canonical text form. Opens nothing and may be logged."""

NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Before any clock of ours: what lasted until then is over everywhere."""


@dataclass(frozen=True, slots=True)
class Session:
    """A user's being-known. All times are aware UTC; `digest` is what this copy answers for.

    After a rotation the previous digest still leads here until `previous_until`; the copy that
    answers for it has `digest == previous_digest`.
    """

    id: SessionId
    digest: Digest = field(repr=False)
    user_id: str
    type: SessionType
    scopes: tuple[str, ...]
    created_at: datetime
    authenticated_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    idle_timeout: timedelta | None
    revoked_at: datetime | None = None
    previous_digest: Digest | None = field(default=None, repr=False)
    previous_until: datetime = NEVER
    version: int = 1
    binding: Binding = UNBOUND
    valid_until: datetime = field(init=False, repr=False, compare=False)
    cached_reply: object = field(default=None, init=False, repr=False, compare=False)
    verified_by: object = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "valid_until", self._valid_until())

    @property
    def freshness(self) -> tuple[bool, int, datetime]:
        """Order copies of one session: a tombstone beats all, then the version, then last_seen."""
        return self.revoked_at is not None, self.version, self.last_seen_at

    @property
    def idle_at(self) -> datetime | None:
        """Return when the silence will have been too long; None: it may last."""
        return None if self.idle_timeout is None else self.last_seen_at + self.idle_timeout

    def note_reply(self, conclusion: object) -> None:
        """Write into the margin of this copy what somebody concluded from it and will want again.

        It is no part of the value: nothing compares, stores or hands it on.
        """
        object.__setattr__(self, "margin", conclusion)

    def note_verified(self, by: object) -> None:
        """Note on this copy whose keys have verified its token's tag, lest it be done again.

        Like the margin it is no part of the value: nothing compares, stores or hands it on.
        """
        object.__setattr__(self, "verified_by", by)

    def ended(self, at: datetime) -> bool:
        """Say whether the session as a whole (not merely one rotated-out token) is over."""
        return (
            self.revoked_at is not None
            or at >= self.expires_at
            or (self.idle_at is not None and at >= self.idle_at)
        )

    def copies(self) -> tuple["Session", ...]:
        """Return this session under each digest that leads to it, the current one first."""
        if self.previous_digest is None:
            return (self,)
        return self, replace(self, digest=self.previous_digest)

    def rotated_out(self, digest: Digest) -> "Session":
        """Return the copy for a digest that led here before the previous one did: it is over."""
        return replace(self, digest=digest, previous_digest=digest, previous_until=NEVER)

    def touched(self, at: datetime) -> "Session":
        """It was seen. Changes no version and no state, and never goes back in time."""
        self._require_active(at)
        return replace(self, last_seen_at=max(self.last_seen_at, at))

    def extended(self, until: datetime, at: datetime) -> "Session":
        """Its absolute deadline moves to `until`, never to an earlier moment."""
        self._require_active(at)
        return replace(
            self,
            expires_at=max(self.expires_at, until),
            last_seen_at=max(self.last_seen_at, at),
            version=self.version + 1,
        )

    def rotated(self, digest: Digest, grace: timedelta, at: datetime) -> "Session":
        """A new token leads to it; the old one does so for `grace` more."""
        self._require_active(at)
        return replace(
            self,
            digest=digest,
            previous_digest=self.digest,
            previous_until=at + grace,
            last_seen_at=max(self.last_seen_at, at),
            version=self.version + 1,
        )

    def migrated(self, digest: Digest, at: datetime) -> "Session":
        """It becomes an SSO session under a new token; the old token ends at once (fixation).

        At once on every clock: an instance whose clock is behind must not wait for `at`.
        """
        rotated = self.rotated(digest, timedelta(0), at)
        return replace(rotated, type=SessionType.SSO, previous_until=NEVER)

    def revoked(self, at: datetime) -> "Session":
        """Its tombstone: the next version, and the last."""
        self._require_active(at)
        return replace(self, revoked_at=at, version=self.version + 1)

    def _valid_until(self) -> datetime:
        """Return the first moment at which this copy opens nothing; `judge` says why."""
        if self.revoked_at is not None:
            return NEVER
        idle_at = self.idle_at
        ends = self.expires_at if idle_at is None else min(self.expires_at, idle_at)
        return min(ends, self.previous_until) if self.digest == self.previous_digest else ends

    def _require_active(self, at: datetime) -> None:
        if self.ended(at):
            raise SessionEnded(f"session {self.id} has ended")


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """What the durable store keeps besides. `metadata` is any JSON object up to 16 KiB.

    `rotation_nonce` belongs to the last rotation: with the token that was presented then it gives
    the token that followed, and without that token nothing. `claim` is core/idempotency.py's: under
    it the request that began the session finds it again. `tenant` is a label of the caller's;
    `provider_subject` is the user as the provider calls them. `change` is the last one.
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
    """A session with its details, as the durable store knows it."""

    session: Session
    details: SessionDetails = field(default_factory=SessionDetails)
