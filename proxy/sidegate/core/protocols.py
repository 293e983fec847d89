"""The contracts of the stores. None means absent; an error means an outage.

Every method raises StoreUnavailable, and nothing else, if the store does not answer. A method that
changes something raises OutcomeUnknown, a subclass, if the change may have been made or may still
be made. A method that reads records raises UnreadableRecord if one cannot be decoded, unless its
description says that it omits such records.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from sidegate.core.actor import Actor
from sidegate.core.analytics import ActiveSessions, Sample, Totals, Window
from sidegate.core.audit import AuditEvent, AuditFilter, Seal
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.limits import Limit
from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState


class SessionFinder(Protocol):
    """Finds sessions by digest: a store, or a wrapper around another finder."""

    async def find(self, digest: Digest) -> Session | None:
        """Return the copy of a session for `digest`, or None if there is none.

        The copy has `copy.digest == digest`. Ended sessions and tombstones are returned, too.
        """
        ...


class BatchFinder(Protocol):
    """A backend that finds many sessions in one round trip."""

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        """Return what `find` would for each digest; the mapping lacks those with None."""
        ...


class SessionCache(SessionFinder, Protocol):
    """A cache of sessions. It may drop entries, and never replaces one by an older copy."""

    async def put(self, session: Session) -> Session:
        """Store the copy under `session.digest`, unless the cached one is fresher.

        Return the copy that is cached now. `Session.freshness` decides.
        """
        ...


class BatchCache(BatchFinder, Protocol):
    """A cache backend that finds and puts many sessions in one round trip."""

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        """Put each session under its digest, and return what `put` would for each digest."""
        ...


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last session of a page. Lists are ordered by (created_at, id), descending."""

    created_at: datetime
    id: SessionId


@dataclass(frozen=True, slots=True)
class Touch:
    """Activity of a session: `count` allowed requests, the last one at `seen_at`."""

    id: SessionId
    seen_at: datetime
    count: int


@dataclass(frozen=True, slots=True)
class RotatedOut:
    """The rotation of a digest, which was valid until `until`.

    The successor is derived from `nonce` and the old token. `nonce` is None if the session was
    migrated: then the successor cannot be derived.
    """

    until: datetime
    nonce: bytes | None = field(repr=False)


class DurableStore(SessionFinder, BatchFinder, Protocol):
    """The database, the source of truth. Sessions change only by compare-and-set on the version.

    A method that changes something returns after the change is durable.
    """

    async def create(self, record: SessionRecord, *, limit: Limit | None = None) -> list[Session]:
        """Store a new session, and return the tombstones of the sessions evicted for it.

        `limit` applies to the sessions of its user, type and tenant that are active at its
        `created_at`, the new one included, also under concurrent calls.
        Raise LimitReached if `limit.at_limit` refuses the session. Raise SessionExists if its id,
        digest or idempotency key hash is taken. In both cases nothing has changed.
        Unreadable tombstones are omitted.
        """
        ...

    async def find_by_idempotency_key(self, key_hash: bytes) -> SessionRecord | None:
        """Return the session created with this idempotency key, ended or not, or None."""
        ...

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session with this id, ended or not, or None."""
        ...

    async def find_rotated_out(self, digest: Digest) -> RotatedOut | None:
        """Return the rotation that replaced `digest`, or None if it was not rotated out."""
        ...

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        """Return the session that has or ever had `digest`, ended or not, or None."""
        ...

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: tuple[SessionState, datetime] | None = None,
    ) -> list[SessionRecord]:
        """Return at most `limit` matching sessions, newest first, starting after `after`.

        With `state`, return only sessions in that state at that time.
        """
        ...

    async def count_where(self, condition: Condition, *, at: datetime) -> int:
        """Return the number of sessions that `revoke_where` would revoke without a limit."""
        ...

    async def replace(self, record: SessionRecord, *, expected: int) -> bool:
        """Store the next version of a session if the stored version is `expected`.

        Return False if it is another version or there is no such session; then nothing has changed.
        A digest replaced by a rotation is kept as long as the session.
        """
        ...

    async def replace_within_limit(
        self, record: SessionRecord, *, expected: int, limit: Limit, at: datetime
    ) -> list[Session] | None:
        """Replace a session that changes its type, and apply `limit` at `at` as `create` does.

        Return the tombstones of the sessions evicted for it, unreadable ones omitted, or None if
        the stored version is not `expected`. Raise LimitReached if `limit.at_limit` refuses it.
        In the last two cases nothing has changed.
        """
        ...

    async def revoke_where(
        self,
        condition: Condition,
        *,
        at: datetime,
        by: Actor,
        reason: str,
        limit: int,
        after: SessionId | None = None,
    ) -> list[Session]:
        """Revoke at most `limit` matching sessions, by id in ascending order, after `after`.

        Sessions that are revoked or past their absolute deadline at `at` do not match. Idle ones
        do, because a late touch may show that they are active. Return the tombstones in order of
        their ids. Unreadable sessions are revoked, but omitted from the list, so a short list does
        not mean that none are left; an empty list does.
        """
        ...

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        """Increase last_seen_at and access_count, and change nothing else, not even the version.

        A session that is absent, revoked or past its absolute deadline at `seen_at` is skipped. An
        idle one is touched, because an instance allowed it at `seen_at`. `touches` must not have an
        id twice. Return the touched sessions in their new state; unreadable ones are omitted.
        """
        ...

    async def read_generation(self) -> int:
        """Return the generation of cached copies that may be trusted.

        It only grows. A number that was lost in a failover is not used again.
        """
        ...

    async def advance_generation(self, after: int) -> int:
        """Begin the generation after `after`, and return the present generation.

        For a cache that missed a change: its copies are not trusted in the new generation. If
        another instance has begun it already, only return the present one.
        """
        ...

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        """Delete at most `limit` sessions with `expires_at < expired_before`; return how many.

        Return 0 also while another instance purges.
        """
        ...

    async def list_changed_since(self, position: int) -> tuple[int, list[Session]]:
        """Return the next position, and the sessions changed since `position`.

        Creations and touches are not changes. A position is opaque; 0 returns the present position
        and no sessions. A change may be returned twice, but is never left out, in whatever order
        concurrent writers commit. Unreadable sessions are omitted. Raise PositionLost if the
        position is not valid any more, for example after a failover; then continue with 0.
        """
        ...

    async def list_last_changed(self, limit: int) -> list[Session]:
        """Return at most `limit` sessions, those changed last, the latest first.

        Creations and touches are not changes. Unreadable sessions are omitted.
        """
        ...

    async def ping(self) -> None:
        """Return if the store answers."""
        ...

    async def close(self) -> None:
        """Release all resources. The store must not be used afterwards."""
        ...


class AuditLog(Protocol):
    """The audit events of the database and their chain of seals.

    The database writes an event in the transaction of each change.
    """

    async def list_events(
        self, criteria: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        """Return at most `limit` matching events numbered below `before`, the highest first."""
        ...

    async def list_unsealed(self, *, limit: int) -> list[AuditEvent]:
        """Return at most `limit` events without a seal, the lowest number first."""
        ...

    async def read_head(self) -> Seal:
        """Return the last seal, or the anchor if no sealed event is left."""
        ...

    async def add_seals(self, seals: Sequence[tuple[int, Seal]]) -> bool:
        """Store the seals of the events with these numbers; they continue the chain after the head.

        Return False if another instance has added seals concurrently. Some of these seals may be
        stored then, all of them correct.
        """
        ...

    async def read_anchor(self) -> Seal:
        """Return the seal that the oldest stored sealed event follows."""
        ...

    async def list_sealed(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        """Return at most `limit` sealed events with a link above `after`, in order of the links."""
        ...

    async def delete_oldest(self, before: datetime, *, limit: int) -> int:
        """Delete at most `limit` sealed events from the start of the chain; return how many.

        Stop at the first event that is not older than `before`. The anchor becomes the last
        deleted seal.
        """
        ...


class AnalyticsStore(Protocol):
    """The database's session counters, and the samples of them.

    The database records each creation and revocation in the statement that makes it. Each method
    is atomic: a crash between two calls loses nothing and counts nothing twice, and several
    instances may call them concurrently.
    """

    async def reserve_sample(self, at: datetime, interval: timedelta) -> bool:
        """Return whether a sample is due and the caller has to take it.

        Of several concurrent callers, one gets True.
        """
        ...

    async def record_expired(self, at: datetime, *, limit: int) -> int:
        """Record the ends of at most `limit` sessions expired or idle at `at`; return how many.

        Fewer than `limit` mean that none are left. May take seconds, but does not block others.
        """
        ...

    async def add_to_totals(self, *, limit: int) -> int:
        """Add at most `limit` recorded creations and ends to the totals; return how many.

        Fewer than `limit` mean that none are left.
        """
        ...

    async def count_active(self, at: datetime) -> ActiveSessions:
        """Count the sessions active at `at`. May take seconds, but does not block others."""
        ...

    async def read_totals(self) -> Totals:
        """Return the totals."""
        ...

    async def save_sample(self, sample: Sample) -> None:
        """Store a sample. It becomes the last one, whatever its time."""
        ...

    async def read_last_sample(self) -> Sample | None:
        """Return the sample that was stored last, or None if there is none."""
        ...

    async def read_window(self, since: datetime, until: datetime) -> Window | None:
        """Return the window that ends at `until`, or None if there is no sample until then.

        It begins with the latest sample at or before `since`, or else with the oldest sample.
        """
        ...

    async def delete_samples(self, before: datetime, *, limit: int) -> None:
        """Delete at most `limit` samples older than `before`, the oldest first."""
        ...


class SessionLocks(Protocol):
    """The session locks in the database. Leases expire by the database's clock.

    A lock is not part of its session: it changes no version and leaves no audit event. It is
    deleted when its session is purged.
    """

    async def acquire(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        """Acquire the lock for `ttl`.

        Return a Hold with a new fence, Contended if another lease holds the lock, or None if there
        is no such session. Of several concurrent callers, one gets the lock. After StoreUnavailable
        `lease` may hold the lock or not.
        """
        ...

    async def renew(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        """Extend the hold to `ttl` from now, if that is later, and keep its fence.

        Return None if `lease` does not hold the lock; then nothing has changed.
        """
        ...

    async def release(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        """Release the lock. Return False if `lease` did not hold it; then nothing has changed."""
        ...


class LogoutTokenStore(Protocol):
    """The logout tokens processed by any instance, by `Logout.id` of 32 bytes."""

    async def is_processed(self, logout_id: bytes) -> bool:
        """Return whether this token was marked as processed."""
        ...

    async def mark_processed(self, logout_id: bytes, *, until: datetime, at: datetime) -> bool:
        """Mark a token as processed. Return False if it was marked already.

        Of several concurrent callers, one gets True. The mark is deleted by the first call with
        `at` after `until`; `at` is the present time.
        """
        ...


class PendingRevocationStore(Protocol):
    """Shares pending revocations between instances. It may lose all of them at once."""

    async def put(self, revocations: Sequence[PendingRevocation]) -> None:
        """Store the revocations and notify all instances."""
        ...

    async def compare(self, known: set[str]) -> tuple[list[PendingRevocation], set[str]]:
        """Return the stored revocations with ids not in `known`, and the known ids not stored.

        Unreadable revocations are omitted.
        """
        ...

    async def remove(self, revocation: PendingRevocation) -> None:
        """Delete a revocation, which is persisted in the database. Absence is not an error."""
        ...


class Feed(Protocol):
    """Notifies the other instances of changed sessions."""

    async def publish(self, sessions: Iterable[Session]) -> None:
        """Publish the changed sessions. Best effort: the change poller finds what was lost."""
        ...
