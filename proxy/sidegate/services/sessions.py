"""The life of a session: each verb changes the truth, and then the word goes outward.

A verb is acknowledged after the durable store committed. Whatever follows (copies into the hot
stores, the announcement to other instances) may fail without undoing it.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from sidegate.core.actor import Actor, Change
from sidegate.core.binding import DEFAULT_WIDTHS, Signals, Widths, bind
from sidegate.core.condition import Condition
from sidegate.core.errors import (
    AnotherRequest,
    LimitReached,
    RevocationPending,
    SessionEnded,
    SessionExists,
    StoreUnavailable,
)
from sidegate.core.idempotency import Idempotency
from sidegate.core.judge import state as state_of
from sidegate.core.pending import PendingRevocation
from sidegate.core.protocols import Cursor, Touch
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.session_type import SessionType
from sidegate.core.token import Token
from sidegate.core.within import within
from sidegate.services.publisher import put_copies
from sidegate.services.session_context import SessionContext

# One statement's worth: its rows' locks are held for some milliseconds.
_BATCH: Final = 500
# Seconds until a revocation does not wait for the truth any longer, where it need not.
_PATIENCE: Final = 3.0


@dataclass(frozen=True, slots=True)
class NewSession:
    """What the caller, `by`, decides about a session.

    `expires_in` only shortens the type's lifetime. `tenant` is a label of the caller's. Of an SSO
    session, `provider` and the two after it say which of a provider's sessions and users it is.
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
    """A new session and its token, which is shown this once and kept by nobody."""

    token: Token
    record: SessionRecord


class Sessions:
    """Every verb that leaves the token alone; service/rotation.py has the others."""

    def __init__(
        self,
        means: SessionContext,
        *,
        new_id: Callable[[], SessionId],
        widths: Widths = DEFAULT_WIDTHS,
    ) -> None:
        """`widths`: how much of an address a session is bound to."""
        self._means = means
        self._new_id = new_id
        self._widths = widths

    async def create(self, wanted: NewSession, *, key: Idempotency | None = None) -> Issued:
        """Begin a session; at the limit, end others for it, or LimitReached.

        StoreUnavailable: none was begun that the caller could know of. With a `key` that has begun
        one already, return that one and its token again; AnotherRequest: for another request;
        SessionEnded: it is over; SessionExists: its token has been changed since. ValueError: it
        cannot be bound to what is malformed.
        """
        if key is None:
            return await self._begin(
                wanted, self._new_id(), self._means.ring.mint(wanted.type), None
            )
        before = await self._means.durable.find_by_idempotency_key(key.claim)
        if before is None:
            session_id = self._new_id()
            token = next(self._derived(wanted.type, key, session_id))
            try:
                return await self._begin(wanted, session_id, token, key.claim)
            except (SessionExists, LimitReached):  # the same request, at the same time
                before = await self._means.durable.find_by_idempotency_key(key.claim)
                if before is None:
                    raise
        return await self._again(wanted, key, before)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session, ended or not, or None."""
        return await self._means.get(session_id)

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: SessionState | None = SessionState.ACTIVE,
    ) -> list[SessionRecord]:
        """Return a page of the sessions that match, newest first; `state` None: in any.

        Fewer than `limit`: there are no more. Whose revocation is pending is not active any more,
        and among the revoked when it is written down.
        """
        now = self._means.clock.now()
        in_state = None if state is None else (state, now)
        page: list[SessionRecord] = []
        while len(page) < limit:
            found = await self._means.durable.list_where(
                condition, limit=limit, after=after, state=in_state
            )
            records = map(self._means.with_pending, found)
            page += (r for r in records if state in (None, state_of(r.session, now)))
            if len(found) < limit:
                break
            after = Cursor(found[-1].session.created_at, found[-1].session.id)
        return page[:limit]

    async def count_where(self, condition: Condition) -> int:
        """Return how many sessions `revoke_where` would end now."""
        return await self._means.durable.count_where(condition, at=self._means.clock.now())

    async def revoke(
        self, session_id: SessionId, *, by: Actor, reason: str
    ) -> SessionRecord | None:
        """End a session for good and return its last state; None: there is no such session.

        Idempotent: of a session that was revoked or has expired nothing changes. One statement, not
        a compare-and-set: nobody outruns a revocation by refreshing faster. RevocationPending: the
        truth is away; if there is such a session, nobody is let in by it any more.
        """
        condition = Condition(session_id=session_id)
        tombstones = await self._ended(condition, by=by, reason=reason, limit=1)
        await self._means.publish_ended(tombstones, cause="revoke")
        record = await self.get(session_id)
        if record is not None and not tombstones and record.session.revoked_at is not None:
            # Whoever revoked it may have died before telling anybody, and we are asked again.
            await self._means.publish([record.session])
        return record

    async def touch(self, session_id: SessionId) -> SessionRecord | None:
        """Note that a session was seen, elsewhere than at the gate; None: there is no such session.

        SessionEnded: it was over already.
        """
        record, now = await self.get(session_id), self._means.clock.now()
        if record is None:
            return None
        touched = []
        if not record.session.ended(now):
            touched = await self._means.durable.touch([Touch(session_id, now, 1)])
        if not touched:
            raise SessionEnded(f"session {session_id} has ended")
        await put_copies(touched, self._means.caches)
        seen = record.details.access_count + 1  # at least: others may have counted meanwhile
        return SessionRecord(touched[0], replace(record.details, access_count=seen))

    async def revoke_where(
        self, condition: Condition, *, by: Actor, reason: str
    ) -> AsyncIterator[int]:
        """End every living session that matches, a batch at a time; yield how many each ended.

        Whoever stops listening stops it: what was yielded is done. Sessions that begin meanwhile
        may be ended or not. RevocationPending: the truth is away; all the others are ended so.
        """
        after = None
        while True:
            tombstones = await self._ended(
                condition, by=by, reason=reason, limit=_BATCH, after=after
            )
            if not tombstones:
                return
            await self._means.publish_ended(tombstones, cause="revoke_where")
            yield len(tombstones)
            after = tombstones[-1].id

    async def persist(self, revocation: PendingRevocation) -> None:
        """Tell the truth of a revocation that was pending. What it knows already stays as it is."""
        after = None
        while True:
            tombstones = await self._means.durable.revoke_where(
                revocation.condition,
                at=revocation.at,
                by=revocation.by,
                reason=revocation.reason,
                limit=_BATCH,
                after=after,
            )
            if not tombstones:
                return
            await self._means.publish_ended(tombstones, cause="revoke_pending")
            after = tombstones[-1].id

    async def _ended(
        self,
        condition: Condition,
        *,
        by: Actor,
        reason: str,
        limit: int,
        after: SessionId | None = None,
    ) -> list[Session]:
        """Return the tombstones of a batch; RevocationPending: those to come."""
        revoking = self._means.durable.revoke_where(
            condition, at=self._means.clock.now(), by=by, reason=reason, limit=limit, after=after
        )
        pending = self._means.pending
        if pending is None or not pending.accepts(condition):
            return await revoking
        try:
            return await within(_PATIENCE, "durable", revoking)
        except StoreUnavailable as outage:
            try:
                await pending.add(condition, by=by, reason=reason)
            except StoreUnavailable:
                raise outage from None
            raise RevocationPending from outage

    async def _begin(
        self, wanted: NewSession, session_id: SessionId, token: Token, claim: bytes | None
    ) -> Issued:
        record = self._begun(wanted, session_id, token, claim)
        evicted = await self._means.durable.create(
            record, limit=self._means.limits.get(wanted.type)
        )
        self._means.events.created(record.session)
        await put_copies([record.session], self._means.caches)
        await self._means.publish_ended(evicted, cause="limit")
        return Issued(token, record)

    async def _again(self, wanted: NewSession, key: Idempotency, before: SessionRecord) -> Issued:
        """Return what `key` has begun, with the token made again."""
        for token in self._derived(wanted.type, key, before.session.id):
            record = await self._means.find_by_any_digest(token.digest())
            if record is None:
                continue
            if record.session.ended(self._means.clock.now()):
                raise SessionEnded(f"session {record.session.id} has ended")
            if record.session.digest != token.digest():
                raise SessionExists(f"session {record.session.id} has another token by now")
            return Issued(token, record)
        raise AnotherRequest("the key stands for another request")

    def _derived(
        self, type_: SessionType, key: Idempotency, session_id: SessionId
    ) -> Iterator[Token]:
        return self._means.ring.derived(type_, key.seed + session_id.encode())

    def _begun(
        self, wanted: NewSession, session_id: SessionId, token: Token, claim: bytes | None
    ) -> SessionRecord:
        now = self._means.clock.now()
        lifetimes = self._means.lifetimes[wanted.type]
        lifetime = min(lifetimes.lifetime, wanted.expires_in or lifetimes.lifetime)
        session = Session(
            id=session_id,
            digest=token.digest(),
            user_id=wanted.user_id,
            type=wanted.type,
            scopes=wanted.scopes,
            created_at=now,
            authenticated_at=now,
            last_seen_at=now,
            expires_at=now + lifetime,
            idle_timeout=lifetimes.idle_timeout,
            binding=bind(session_id, wanted.binding, self._widths),
        )
        details = SessionDetails(
            ip=wanted.ip,
            user_agent=wanted.user_agent,
            device=wanted.device,
            metadata=wanted.metadata,
            provider=wanted.provider,
            provider_session_id=wanted.provider_session_id,
            provider_subject=wanted.provider_subject,
            tenant=wanted.tenant,
            idempotency_key_hash=claim,
            change=Change(now, wanted.by),
        )
        return SessionRecord(session, details)
