"""Rotation: a new token for the same session, the same one for everybody who asks at once.

The successor is derived from the token that is presented and a stored nonce. So callers that race,
on whichever instances, and one whose answer was lost, get the same successor; and the store, which
holds the nonce but no token, could not say what it is.
"""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, assert_never

from sidegate.core.actor import SIDEGATE, Actor, Change
from sidegate.core.errors import Conflict
from sidegate.core.judge import judge
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import Token
from sidegate.core.verdict import Deny, Reason
from sidegate.services.session_context import SessionContext
from sidegate.services.sessions import Issued

# Each lost race means that somebody else made progress; so many in a row is a storm.
_ATTEMPTS: Final = 5
_NONCE: Final = 32


class Rotation:
    """The two verbs that give a living session another token: refresh and migrate."""

    def __init__(self, means: SessionContext) -> None:
        self._means = means

    async def refresh(
        self, credential: str, *, by: Actor, extend_by: timedelta | None = None
    ) -> Issued | Deny:
        """Rotate the session that `credential`, the text of a token, leads to.

        Within the grace the token that was rotated out gets the same successor again. After it,
        whoever presents any token that was ever rotated out is a thief or was robbed: the session
        ends, reason `token_reuse`. `extend_by` moves the deadline to that long from now, never
        past the lifetime of the session's type.
        """
        match self._means.ring.read(credential):
            case Deny() as no:
                return no
            case Token() as token:
                return await self._refresh(token, by, extend_by)
            case never:
                assert_never(never)

    async def migrate(
        self,
        session_id: SessionId,
        *,
        by: Actor,
        provider: str,
        provider_session_id: str | None = None,
        provider_subject: str | None = None,
        attributes: Mapping[str, object] = MappingProxyType({}),
    ) -> Issued | None:
        """Make it an SSO session of `provider`, under a new token; the old token ends at once.

        `attributes` join the session's metadata. At the limit of SSO sessions others end for it.
        None: there is no such session. SessionEnded: it has ended. LimitReached: none is to end.
        """
        for _ in range(_ATTEMPTS):
            record = await self._means.get(session_id)
            if record is None:
                return None
            token, now = self._means.ring.mint(SessionType.SSO), self._means.clock.now()
            details = replace(
                record.details,
                provider=provider,
                provider_session_id=provider_session_id,
                provider_subject=provider_subject,
                metadata={**record.details.metadata, **attributes},
                rotation_nonce=None,
                change=Change(now, by),
            )
            after = SessionRecord(record.session.migrated(token.digest(), now), details)
            if await self._joined(record.session, after, now):
                return Issued(token, after)
        raise Conflict(f"session {session_id} kept changing")

    async def _refresh(self, token: Token, by: Actor, extend_by: timedelta | None) -> Issued | Deny:
        digest = token.digest()
        for _ in range(_ATTEMPTS):
            record = await self._means.find_by_any_digest(digest)
            if record is None:
                return Deny(Reason.UNKNOWN)
            now = self._means.clock.now()
            verdict = judge(record.session, now)
            if isinstance(verdict, Deny):
                return verdict
            done: Issued | Deny | None
            if digest == record.session.digest:
                done = await self._rotate(token, record, extend_by, Change(now, by))
            else:
                done = await self._left_behind(token, record, now)
            if done is not None:
                return done
        raise Conflict("the session kept changing")

    async def _rotate(
        self, token: Token, before: SessionRecord, extend_by: timedelta | None, change: Change
    ) -> Issued | None:
        """Rotate; None: somebody else has changed the session meanwhile."""
        now, nonce = change.at, secrets.token_bytes(_NONCE)
        successor = next(self._means.ring.successors(token, nonce))
        lifetimes = self._means.lifetimes[before.session.type]
        session = before.session
        if extend_by is not None:
            latest = session.authenticated_at + lifetimes.lifetime
            session = session.extended(min(now + extend_by, latest), now)
        session = session.rotated(successor.digest(), lifetimes.grace, now)
        details = replace(
            before.details,
            refresh_count=before.details.refresh_count + 1,
            rotation_nonce=nonce,
            change=change,
        )
        after = SessionRecord(session, details)
        return Issued(successor, after) if await self._replaced(before.session, after) else None

    async def _left_behind(
        self, token: Token, record: SessionRecord, now: datetime
    ) -> Issued | Deny | None:
        """Answer for a token that was rotated out; None: the session has changed meanwhile.

        A migration left no nonce: the session has not been stolen, its owner has moved on.
        """
        left = await self._means.durable.rotated_out(token.digest())
        if left is None:
            return None
        if left.nonce is None:
            return Deny(Reason.REUSED)
        if now < left.until:
            return await self._again(token, left.nonce, record)
        return await self._reused(record, now)

    async def _again(self, token: Token, nonce: bytes, record: SessionRecord) -> Issued | Deny:
        """Return what the winner of the race was given."""
        for successor in self._means.ring.successors(token, nonce):
            owner = await self._means.durable.find_by_any_digest(successor.digest())
            if owner is not None:
                return Issued(successor, record)
        # The key that made it is not in our ring.
        return Deny(Reason.REUSED)

    async def _reused(self, record: SessionRecord, now: datetime) -> Deny | None:
        """End the session; None: somebody else has changed it meanwhile."""
        details = replace(
            record.details,
            revoked_by=SIDEGATE.name,
            revoked_reason="token_reuse",
            change=Change(now, SIDEGATE),
        )
        after = SessionRecord(record.session.revoked(now), details)
        if not await self._replaced(record.session, after):
            return None
        self._means.events.ended(after.session, "token_reuse")
        return Deny(Reason.REUSED)

    async def _joined(self, before: Session, after: SessionRecord, now: datetime) -> bool:
        """Replace what becomes one more session of its type; False: it has changed meanwhile."""
        limit = self._means.limits.get(after.session.type)
        if limit is None:
            return await self._replaced(before, after)
        evicted = await self._means.durable.replace_within(
            after, expected=before.version, limit=limit, at=now
        )
        if evicted is None:
            return False
        await self._tell(before, after)
        await self._means.publish_ended(evicted, cause="limit")
        return True

    async def _replaced(self, before: Session, after: SessionRecord) -> bool:
        if not await self._means.durable.replace(after, expected=before.version):
            return False
        await self._tell(before, after)
        return True

    async def _tell(self, before: Session, after: SessionRecord) -> None:
        changed, older = [after.session], before.previous_digest
        if older is not None and older != after.session.previous_digest:
            # Its grace may not be over, and it is no copy of the session any more.
            changed.append(after.session.rotated_out(older))
        await self._means.publish(changed)
