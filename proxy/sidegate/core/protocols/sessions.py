"""The sessions in the database, and their activity."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from sidegate.core.actor import Actor
from sidegate.core.change_log import ChangedSession
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.limits import Limit
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last session of a page. Lists are ordered by (created_at, id), descending."""

    created_at: datetime
    id: SessionId


@dataclass(frozen=True, slots=True)
class RotatedOut:
    """The rotation of a digest, which was valid until `until`.

    The successor is derived from `nonce` and the old token. `nonce` is None if the session was
    migrated: then the successor cannot be derived.
    """

    until: datetime
    nonce: bytes | None = field(repr=False)


class SessionRepository(Protocol):
    """The sessions of the database. They change only by compare-and-set on the version.

    A changed session has the time of the change: the database's, when its locks are held. So what a
    method returns may differ from what it was given in `revoked_at` and `previous_until`.

    What a method returns as changed names every digest that a cache may have an open copy for.
    """

    async def create(
        self, record: SessionRecord, *, limit: Limit | None = None
    ) -> list[ChangedSession]:
        """Store a new session, and return the sessions evicted for it.

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

    async def replace(self, record: SessionRecord, *, expected: int) -> ChangedSession | None:
        """Store the next version of a session if the stored version is `expected`.

        Return None if it is another version or there is no such session; then nothing has changed.
        A digest replaced by a rotation is kept as long as the session.
        """
        ...

    async def replace_within_limit(
        self, record: SessionRecord, *, expected: int, limit: Limit, at: datetime
    ) -> list[ChangedSession] | None:
        """Replace a session that changes its type, and apply `limit` at `at` as `create` does.

        Return the replaced session and then those evicted for it, unreadable ones omitted, or None
        if the stored version is not `expected`. Raise LimitReached if `limit.at_limit` refuses it.
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
        acknowledged: bool = False,
    ) -> list[ChangedSession]:
        """Revoke at most `limit` matching sessions, by id in ascending order, after `after`.

        `at` is when it was asked for. A session is revoked at the database's time once it is
        locked, or at `at` if the revocation was `acknowledged` then.

        Sessions that are revoked or past their absolute deadline at `at` do not match. Idle ones
        do, because a late touch may show that they are active. Return the tombstones in order of
        their ids. Unreadable sessions are revoked, but omitted from the list, so a short list does
        not mean that none are left; an empty list does.
        """
        ...


@dataclass(frozen=True, slots=True)
class Touch:
    """Activity of a session: `count` allowed requests, the last one at `seen_at`.

    `token`: the digest of the current token, if it was presented for the first time.
    """

    id: SessionId
    seen_at: datetime
    count: int
    token: Digest | None = field(default=None, repr=False)


class ActivityStore(Protocol):
    """Records the activity of sessions."""

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        """Increase last_seen_at and access_count, and change no version.

        `token_seen` becomes true if `token` is still the current digest; nothing else changes.

        A session that is absent, revoked or past its absolute deadline at `seen_at` is skipped. An
        idle one is touched, because an instance allowed it at `seen_at`. `touches` must not have an
        id twice. Return the touched sessions in their new state; unreadable ones are omitted.
        """
        ...


class Purger(Protocol):
    """Deletes sessions that ended long ago."""

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        """Delete at most `limit` sessions with `expires_at < expired_before`; return how many.

        Raise PurgeInProgress while another process purges: how many are left is not known then.
        """
        ...
