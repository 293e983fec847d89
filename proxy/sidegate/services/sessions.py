"""Create, read, touch, update and revoke sessions: commit first, then publish.

Each method returns after the durable store has committed. Publishing to the caches and to the other
instances may fail without undoing it.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sidegate.core.actor import Actor, Change
from sidegate.core.binding import Signals, bind
from sidegate.core.change_log import ChangedSession
from sidegate.core.clock import Clock
from sidegate.core.condition import Condition
from sidegate.core.digest import Digest
from sidegate.core.errors import (
    Conflict,
    IdempotencyKeyReused,
    LimitReached,
    RevocationPending,
    SessionEnded,
    SessionExists,
    StoreUnavailable,
)
from sidegate.core.idempotency import Idempotency
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.protocols import ActivityStore, Cursor, SessionRepository, Touch
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from sidegate.core.timeouts import with_timeout
from sidegate.core.token import KeyRing, Token
from sidegate.services.cache_filler import CacheFiller
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.publisher import ChangePublisher
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.session_reader import SessionReader

# Sessions in one statement: it holds its row locks for some milliseconds.
_BATCH_SIZE: Final = 500
# A lost compare-and-set means that another request succeeded; five in a row mean overload.
MAX_ATTEMPTS: Final = 5
# Seconds until a revocation that can be pending no longer waits for the database.
_REVOKE_TIMEOUT: Final = 3.0


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to create, as requested by the caller `by`.

    `expires_in` only shortens the type's lifetime. `tenant` is a label of the caller's. `provider`
    and the two fields after it identify the provider, its session and its user, for SSO sessions.
    """

    user_id: str
    by: Actor
    type: SessionType = SessionType.WEB
    tenant: str | None = None
    provider: str | None = None
    provider_session_id: str | None = None
    provider_subject: str | None = None
    scopes: tuple[str, ...] = ()
    expires_in: timedelta | None = None
    ip: str | None = None
    user_agent: str | None = None
    device: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    binding: Signals = field(default_factory=Signals)


@dataclass(frozen=True, slots=True)
class Issued:
    """A session and its new token, which is returned this once and not stored."""

    token: Token
    record: SessionRecord


class Sessions:
    """All operations that do not replace a token; `Rotation` has the others."""

    def __init__(
        self,
        repository: SessionRepository,
        *,
        activity: ActivityStore,
        reader: SessionReader,
        publisher: ChangePublisher,
        filler: CacheFiller,
        rules: RulesInForce,
        clock: Clock,
        new_id: Callable[[], SessionId],
        pending: PendingRevocations | None = None,
    ) -> None:
        """`pending` takes revocations while the database is unavailable; None: they fail."""
        self._repository = repository
        self._activity = activity
        self._reader = reader
        self._publisher = publisher
        self._filler = filler
        self._rules = rules
        self._clock = clock
        self._new_id = new_id
        self._pending = pending

    async def create(self, new: NewSession, *, key: Idempotency | None = None) -> Issued:
        """Create a session. At the limit, evict others or raise LimitReached.

        With a `key` that has created one before, return that one and its token again. Raise
        IdempotencyKeyReused if it was created by another request, SessionEnded if it has ended, and
        SessionExists if its token was replaced since. Raise IdentityTooLarge if a new one is over
        that limit, and ValueError if a binding signal is malformed. After StoreUnavailable a
        session may exist, whose token was not returned.
        """
        rules, session_id = self._rules.current, self._new_id()
        if key is None:
            return await self._create(new, session_id, token=rules.ring.mint(new.type), rules=rules)
        before = await self._repository.find_by_idempotency_key(key.key_hash)
        if before is None:
            token = next(rules.ring.derive_tokens(new.type, _seed(key, session_id)))
            try:
                return await self._create(
                    new, session_id, token=token, rules=rules, key_hash=key.key_hash
                )
            except (SessionExists, LimitReached):  # the same request, at the same time
                before = await self._repository.find_by_idempotency_key(key.key_hash)
                if before is None:
                    raise
        return await self._find_created(new, key, before=before, ring=rules.ring)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session, ended or not, or None."""
        return await self._reader.get(session_id)

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: SessionState | None = SessionState.ACTIVE,
    ) -> list[SessionRecord]:
        """Return a page of matching sessions, newest first; `state` None: in any state.

        Fewer than `limit`: there are no more. A session with a pending revocation is not listed as
        active, and listed as revoked once the revocation is persisted.
        """
        in_state = None if state is None else (state, self._clock.now())
        return await self._reader.list_where(condition, limit=limit, after=after, state=in_state)

    async def count_where(self, condition: Condition) -> int:
        """Return how many sessions `revoke_where` would revoke now."""
        return await self._repository.count_where(condition, at=self._clock.now())

    async def revoke(
        self, session_id: SessionId, *, by: Actor, reason: str
    ) -> SessionRecord | None:
        """Revoke a session and return its last state; None: there is no such session.

        Idempotent: a session that was revoked or has expired is not changed. One statement, not a
        compare-and-set, so concurrent refreshes cannot delay it. Raise RevocationPending if the
        database is unavailable; the session, if it exists, is denied from then on.
        """
        condition = Condition(session_id=session_id)
        tombstones = await self._revoke_batch(condition, by=by, reason=reason, limit=1)
        await self._publisher.publish_ended(tombstones, cause="revoke")
        record = await self.get(session_id)
        if record is not None and not tombstones and record.session.revoked_at is not None:
            # The first request may have failed between commit and publish, and this is its retry.
            await self._publisher.publish([ChangedSession(record.session)])
        return record

    async def touch(self, session_id: SessionId) -> SessionRecord | None:
        """Record activity outside the gate; None: there is no such session.

        Raise SessionEnded if it has ended.
        """
        record, now = await self.get(session_id), self._clock.now()
        if record is None:
            return None
        touched, start = [], self._filler.begin()
        if not self._reader.has_ended(record.session, now):
            touched = await self._activity.touch([Touch(session_id, now, 1)])
        if not touched:
            raise SessionEnded(f"session {session_id} has ended")
        await self._filler.fill(touched, start)
        count = record.details.access_count + 1  # a lower bound: others may have touched it too
        return SessionRecord(touched[0], replace(record.details, access_count=count))

    async def update(
        self,
        session_id: SessionId,
        *,
        by: Actor,
        scopes: tuple[str, ...] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SessionRecord | None:
        """Replace the scopes or the metadata, or both; None: there is no such session.

        Idempotent: what is so already is not changed. Raise SessionEnded if it has ended,
        IdentityTooLarge if it would be over that limit, and Conflict if concurrent changes win
        every attempt.
        """
        rules, now = self._rules.current, self._clock.now()
        for _ in range(MAX_ATTEMPTS):
            before = await self.get(session_id)
            if before is None:
                return None
            self._reader.require_idle_known(before.session, now)
            session = before.session.updated(
                now, scopes=before.session.scopes if scopes is None else scopes
            )
            new_metadata = before.details.metadata if metadata is None else metadata
            if (session.scopes, new_metadata) == (before.session.scopes, before.details.metadata):
                return before
            rules.check_identity(session)
            details = replace(before.details, metadata=new_metadata, change=Change(now, by))
            changed = await self._repository.replace(
                SessionRecord(session, details), expected=before.session.version
            )
            if changed is not None:
                await self._publisher.publish([changed])
                return SessionRecord(changed.session, details)
        raise Conflict(f"session {session_id} kept changing")

    async def revoke_where(
        self, condition: Condition, *, by: Actor, reason: str
    ) -> AsyncIterator[int]:
        """Revoke all active sessions that match; yield the size of each batch.

        A batch that was yielded is committed; closing the iterator stops the rest. Sessions created
        meanwhile may be revoked or not. Raise RevocationPending if the database is unavailable; the
        rest is pending then.
        """
        after = None
        while True:
            tombstones = await self._revoke_batch(
                condition, by=by, reason=reason, limit=_BATCH_SIZE, after=after
            )
            if not tombstones:
                return
            await self._publisher.publish_ended(tombstones, cause="revoke_where")
            yield len(tombstones)
            after = tombstones[-1].session.id

    async def persist(self, revocation: PendingRevocation) -> None:
        """Persist a pending revocation. Sessions that have ended are not changed."""
        after = None
        while True:
            tombstones = await self._repository.revoke_where(
                revocation.condition,
                at=revocation.at,
                by=revocation.by,
                reason=revocation.reason,
                limit=_BATCH_SIZE,
                after=after,
                acknowledged=True,
            )
            if not tombstones:
                return
            await self._publisher.publish_ended(tombstones, cause="revoke_pending")
            after = tombstones[-1].session.id

    async def _revoke_batch(
        self,
        condition: Condition,
        *,
        by: Actor,
        reason: str,
        limit: int,
        after: SessionId | None = None,
    ) -> list[ChangedSession]:
        """Revoke a batch and return its tombstones, or make it pending and raise."""
        revoking = self._repository.revoke_where(
            condition, at=self._clock.now(), by=by, reason=reason, limit=limit, after=after
        )
        pending = self._pending
        if pending is None or not pending.accepts(condition):
            return await revoking
        try:
            return await with_timeout(revoking, _REVOKE_TIMEOUT, store="durable")
        except StoreUnavailable as outage:
            try:
                await pending.add(condition, by=by, reason=reason)
            except StoreUnavailable:
                raise outage from None
            raise RevocationPending from outage

    async def _create(
        self,
        new: NewSession,
        session_id: SessionId,
        *,
        token: Token,
        rules: Rules,
        key_hash: bytes | None = None,
    ) -> Issued:
        now = self._clock.now()
        session = _build_session(new, session_id, digest=token.digest(), rules=rules, now=now)
        rules.check_identity(session)
        record = SessionRecord(session, _build_details(new, key_hash, now=now))
        evicted = await self._repository.create(record, limit=rules.limits.get(new.type))
        await self._publisher.publish_created(session)
        await self._publisher.publish_ended(evicted, cause="limit")
        return Issued(token, record)

    async def _find_created(
        self, new: NewSession, key: Idempotency, *, before: SessionRecord, ring: KeyRing
    ) -> Issued:
        """Return the session that `key` has created, with its token derived again."""
        for token in ring.derive_tokens(new.type, _seed(key, before.session.id)):
            record = await self._reader.find_by_any_digest(token.digest())
            if record is None:
                continue
            if self._reader.has_ended(record.session, self._clock.now()):
                raise SessionEnded(f"session {record.session.id} has ended")
            if record.session.digest != token.digest():
                raise SessionExists(f"session {record.session.id} has a newer token")
            return Issued(token, record)
        raise IdempotencyKeyReused("the idempotency key belongs to another request")


def _seed(key: Idempotency, session_id: SessionId) -> bytes:
    """Return what the token of a session that `key` creates is derived from."""
    return key.seed + session_id.encode()


def _build_session(
    new: NewSession, session_id: SessionId, *, digest: Digest, rules: Rules, now: datetime
) -> Session:
    lifetimes = rules.lifetimes[new.type]
    lifetime = min(lifetimes.lifetime, new.expires_in or lifetimes.lifetime)
    return Session(
        id=session_id,
        digest=digest,
        user_id=new.user_id,
        type=new.type,
        scopes=new.scopes,
        created_at=now,
        authenticated_at=now,
        last_seen_at=now,
        expires_at=now + lifetime,
        idle_timeout=lifetimes.idle_timeout,
        binding=bind(session_id, new.binding, prefixes=rules.prefix_lengths),
    )


def _build_details(new: NewSession, key_hash: bytes | None, *, now: datetime) -> SessionDetails:
    return SessionDetails(
        ip=new.ip,
        user_agent=new.user_agent,
        device=new.device,
        metadata=new.metadata,
        provider=new.provider,
        provider_session_id=new.provider_session_id,
        provider_subject=new.provider_subject,
        tenant=new.tenant,
        idempotency_key_hash=key_hash,
        change=Change(now, new.by),
    )
