"""The life of a session: each verb changes the truth, and then the word goes outward.

A verb is acknowledged after the durable store committed. Whatever follows (copies into the hot
stores, the announcement to other instances) may fail without undoing it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from proxy.core.binding import DEFAULT_WIDTHS, Signals, Widths, bind
from proxy.core.errors import (
    AnotherRequest,
    LimitReached,
    SessionEnded,
    SessionExists,
)
from proxy.core.idempotency import Idempotency
from proxy.core.limits import Limit
from proxy.core.protocols import Condition, Cursor, Touch
from proxy.core.session import Session, SessionDetails, SessionId, SessionRecord
from proxy.core.session_type import SessionType
from proxy.core.token import Token
from proxy.service.means import Means
from proxy.service.outward import offer


@dataclass(frozen=True, slots=True)
class NewSession:
    """What the caller decides about a session. `expires_in` only shortens the type's lifetime."""

    user_id: str
    type: SessionType = SessionType.WEB
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
        means: Means,
        *,
        new_id: Callable[[], SessionId],
        widths: Widths = DEFAULT_WIDTHS,
        limits: Mapping[SessionType, Limit] = MappingProxyType({}),
    ) -> None:
        """`widths`: how much of an address a session is bound to. `limits`: of the types that have
        one, how many sessions of a user may live at once.
        """
        self._means = means
        self._new_id = new_id
        self._widths = widths
        self._limits = limits

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
        before = await self._means.durable.claimed(key.claim)
        if before is None:
            session_id = self._new_id()
            token = next(self._derived(wanted.type, key, session_id))
            try:
                return await self._begin(wanted, session_id, token, key.claim)
            except (SessionExists, LimitReached):  # the same request, at the same time
                before = await self._means.durable.claimed(key.claim)
                if before is None:
                    raise
        return await self._again(wanted, key, before)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session, ended or not, or None."""
        return await self._means.durable.get(session_id)

    async def list_for_user(
        self, user_id: str, *, limit: int, after: Cursor | None = None, include_ended: bool = False
    ) -> list[SessionRecord]:
        """Return a page of a user's sessions, newest first."""
        living_at = None if include_ended else self._means.clock.now()
        return await self._means.durable.list_for_user(
            user_id, limit=limit, after=after, living_at=living_at
        )

    async def revoke(self, session_id: SessionId, *, by: str, reason: str) -> SessionRecord | None:
        """End a session for good and return its last state; None: there is no such session.

        Idempotent: of a session that was revoked or has expired nothing changes. One statement, not
        a compare-and-set: nobody outruns a revocation by refreshing faster.
        """
        tombstones = await self._means.durable.revoke_where(
            Condition(session_id=session_id), at=self._means.clock.now(), by=by, reason=reason
        )
        await self._means.over(tombstones, cause="revoke")
        return await self._means.durable.get(session_id)

    async def touch(self, session_id: SessionId) -> SessionRecord | None:
        """Note that a session was seen, elsewhere than at the gate; None: there is no such session.

        SessionEnded: it was over already.
        """
        record, now = await self._means.durable.get(session_id), self._means.clock.now()
        if record is None:
            return None
        touched = []
        if not record.session.ended(now):
            touched = await self._means.durable.touch([Touch(session_id, now, 1)])
        if not touched:
            raise SessionEnded(f"session {session_id} has ended")
        await offer(touched, self._means.hot)
        return await self._means.durable.get(session_id)

    async def revoke_where(self, condition: Condition, *, by: str, reason: str) -> int:
        """End every living session that matches, and return how many those were."""
        tombstones = await self._means.durable.revoke_where(
            condition, at=self._means.clock.now(), by=by, reason=reason
        )
        await self._means.over(tombstones, cause="revoke_where")
        return len(tombstones)

    async def _begin(
        self, wanted: NewSession, session_id: SessionId, token: Token, claim: bytes | None
    ) -> Issued:
        record = self._begun(wanted, session_id, token, claim)
        evicted = await self._means.durable.create(record, limit=self._limits.get(wanted.type))
        self._means.events.created(record.session)
        await offer([record.session], self._means.hot)
        await self._means.over(evicted, cause="limit")
        return Issued(token, record)

    async def _again(self, wanted: NewSession, key: Idempotency, before: SessionRecord) -> Issued:
        """Return what `key` has begun, with the token made again."""
        for token in self._derived(wanted.type, key, before.session.id):
            record = await self._means.durable.owner(token.digest())
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
            claim=claim,
        )
        return SessionRecord(session, details)
