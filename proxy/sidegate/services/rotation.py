"""Rotation: a new token for a session; concurrent refreshes get the same one.

The successor is derived from the presented token and a stored nonce. So concurrent callers, on any
instances, and a retry after a lost response get the same successor. The store holds the nonce but
no token, so the successor cannot be derived from its contents.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, assert_never

from sidegate.core import metadata
from sidegate.core.actor import SIDEGATE, Actor, Change
from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.errors import Conflict, IdentityTooLarge
from sidegate.core.judge import judge
from sidegate.core.limits import Limit
from sidegate.core.protocols import SessionRepository
from sidegate.core.session import Session, SessionDetails, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing, Token
from sidegate.core.verdict import Deny, Reason
from sidegate.services.publisher import ChangePublisher
from sidegate.services.rules import Rules, RulesInForce
from sidegate.services.session_reader import SessionReader
from sidegate.services.sessions import MAX_ATTEMPTS, Issued

_NONCE_BYTES: Final = 32


class Rotation:
    """The operations that replace an active session's token: refresh, reauthenticate, migrate."""

    def __init__(
        self,
        repository: SessionRepository,
        *,
        reader: SessionReader,
        publisher: ChangePublisher,
        rules: RulesInForce,
        clock: Clock,
        count: Callable[[str], None],
    ) -> None:
        """Call `count` for each refresh with its outcome: rotated, repeated or refused."""
        self._repository = repository
        self._reader = reader
        self._publisher = publisher
        self._rules = rules
        self._clock = clock
        self._count = count

    async def refresh(
        self, credential: str, *, by: Actor, extend_by: timedelta | None = None
    ) -> Issued | Deny:
        """Rotate the session that `credential`, the text of a token, leads to.

        A rotated-out token gets the same successor again within its grace, and after it until that
        was presented: the response with it may have been lost. Later, any token that was ever
        rotated out indicates theft: the session is revoked, reason `token_reuse`.

        A request is judged by the time of its arrival, however long it waits for a lock.
        `extend_by` moves the deadline to that long from now, never past the lifetime of the
        session's type. Raise IdentityTooLarge if another token would be stored for a session over
        that limit, and Conflict if concurrent changes win every attempt.
        """
        rules = self._rules.current
        result: Issued | Deny
        match rules.ring.parse(credential):
            case Deny() as denied:
                result = denied
            case Token() as token:
                change = Change(self._clock.now(), by)
                try:
                    result = await self._refresh(token, change, extend_by=extend_by, rules=rules)
                except IdentityTooLarge:
                    self._count("refused")
                    raise
            case unreachable:
                assert_never(unreachable)
        if isinstance(result, Deny):
            self._count("refused")
        return result

    async def reauthenticate(
        self, session_id: SessionId, *, by: Actor, scopes: tuple[str, ...] | None = None
    ) -> Issued | None:
        """Record that the user has authenticated again; the old token ends at once.

        With `scopes` they replace those of the session. Return None if there is no such session.
        Raise SessionEnded if it has ended, IdentityTooLarge if it would be over that limit, and
        Conflict if concurrent changes win every attempt.
        """
        return await self._replace_token(
            session_id,
            by=by,
            change_session=lambda session, digest, now: session.reauthenticated(
                digest, now, scopes=scopes
            ),
        )

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
        """Make it an SSO session under a new token; the old token ends at once.

        `attributes` are merged into the session's metadata. At the limit of SSO sessions evict
        others or raise LimitReached. Return None if there is no such session. Raise SessionEnded if
        it has ended, IdentityTooLarge or MetadataTooLarge if it would be over that limit, and
        Conflict if concurrent changes win every attempt.
        """

        def change_details(details: SessionDetails) -> SessionDetails:
            return replace(
                details,
                provider=provider,
                provider_session_id=provider_session_id,
                provider_subject=provider_subject,
                metadata=metadata.merge(details.metadata, attributes),
            )

        return await self._replace_token(
            session_id,
            by=by,
            change_session=Session.migrated,
            change_details=change_details,
            joins=SessionType.SSO,
        )

    async def _replace_token(
        self,
        session_id: SessionId,
        *,
        by: Actor,
        change_session: Callable[[Session, Digest, datetime], Session],
        change_details: Callable[[SessionDetails], SessionDetails] = lambda details: details,
        joins: SessionType | None = None,
    ) -> Issued | None:
        """Change a session, found by its id, under a new token; None: there is no such session.

        `joins` is the type that it changes to, within the limit of that type.
        """
        rules, now = self._rules.current, self._clock.now()
        limit = None if joins is None else rules.limits.get(joins)
        for _ in range(MAX_ATTEMPTS):
            record = await self._reader.get(session_id)
            if record is None:
                return None
            token = rules.ring.mint(joins or record.session.type)
            self._reader.require_idle_known(record.session, now)
            session = change_session(record.session, token.digest(), now)
            rules.check_identity(session)
            # Without a nonce the old token has no successor.
            details = replace(
                change_details(record.details), rotation_nonce=None, change=Change(now, by)
            )
            after = SessionRecord(session, details)
            stored = await self._replace_within_limit(record.session, after, limit=limit, now=now)
            if stored is not None:
                return Issued(token, SessionRecord(stored, details))
        raise Conflict(f"session {session_id} kept changing")

    async def _refresh(
        self, token: Token, change: Change, *, extend_by: timedelta | None, rules: Rules
    ) -> Issued | Deny:
        digest, now = token.digest(), change.at
        for _ in range(MAX_ATTEMPTS):
            record = await self._reader.find_by_any_digest(digest)
            if record is None:
                return Deny(Reason.UNKNOWN)
            self._reader.require_idle_known(record.session, now)
            verdict = judge(record.session, now)
            if isinstance(verdict, Deny):
                return verdict
            result: Issued | Deny | None
            if digest == record.session.digest:
                result = await self._rotate(
                    token, record, extend_by=extend_by, change=change, rules=rules
                )
            else:
                result = await self._refresh_rotated_out(token, record, ring=rules.ring, now=now)
            if result is not None:
                return result
        raise Conflict("the session kept changing")

    async def _rotate(
        self,
        token: Token,
        before: SessionRecord,
        *,
        extend_by: timedelta | None,
        change: Change,
        rules: Rules,
    ) -> Issued | None:
        """Rotate; None: the session was changed concurrently."""
        now, nonce = change.at, secrets.token_bytes(_NONCE_BYTES)
        successor = next(rules.ring.derive_successors(token, nonce))
        lifetimes = rules.lifetimes[before.session.type]
        session = before.session
        if extend_by is not None:
            latest = session.authenticated_at + lifetimes.lifetime
            session = session.extended(min(now + extend_by, latest), now)
        session = session.rotated(successor.digest(), lifetimes.grace, at=now)
        rules.check_identity(session)
        details = replace(
            before.details,
            refresh_count=before.details.refresh_count + 1,
            rotation_nonce=nonce,
            change=change,
        )
        stored = await self._replace(before.session, SessionRecord(session, details))
        if stored is None:
            return None
        self._count("rotated")
        return Issued(successor, SessionRecord(stored, details))

    async def _refresh_rotated_out(
        self, token: Token, record: SessionRecord, *, ring: KeyRing, now: datetime
    ) -> Issued | Deny | None:
        """Handle a rotated-out token; None: the session was changed concurrently.

        A migration leaves no nonce: its old token is refused, but is no sign of theft.
        """
        rotated_out = await self._repository.find_rotated_out(token.digest())
        if rotated_out is None:
            return None
        if rotated_out.nonce is None:
            return Deny(Reason.REUSED)
        successor = await self._find_successor(token, rotated_out.nonce, ring=ring)
        if now < rotated_out.until or _is_unseen(successor, record.session):
            return self._repeat(successor, record)
        return await self._revoke_reused(record, now)

    async def _find_successor(self, token: Token, nonce: bytes, *, ring: KeyRing) -> Token | None:
        """Return the successor that the rotation has issued, or None if its key is gone."""
        for successor in ring.derive_successors(token, nonce):
            if await self._repository.find_by_any_digest(successor.digest()) is not None:
                return successor
        return None

    def _repeat(self, successor: Token | None, record: SessionRecord) -> Issued | Deny:
        if successor is None:
            return Deny(Reason.REUSED)
        self._count("repeated")
        return Issued(successor, record)

    async def _revoke_reused(self, record: SessionRecord, now: datetime) -> Deny | None:
        """Revoke the session; None: it was changed concurrently."""
        details = replace(
            record.details,
            revoked_by=SIDEGATE.name,
            revoked_reason="token_reuse",
            change=Change(now, SIDEGATE),
        )
        after = SessionRecord(record.session.revoked(now), details)
        changed = await self._repository.replace(after, expected=record.session.version)
        if changed is None:
            return None
        await self._publisher.publish_ended([changed], cause="token_reuse")
        return Deny(Reason.REUSED)

    async def _replace_within_limit(
        self, before: Session, after: SessionRecord, *, limit: Limit | None, now: datetime
    ) -> Session | None:
        """Replace a session that joins another type; None: it was changed concurrently."""
        if limit is None:
            return await self._replace(before, after)
        changes = await self._repository.replace_within_limit(
            after, expected=before.version, limit=limit, at=now
        )
        if changes is None:
            return None
        await self._publisher.publish(changes[:1])
        await self._publisher.publish_ended(changes[1:], cause="limit")
        return changes[0].session

    async def _replace(self, before: Session, after: SessionRecord) -> Session | None:
        changed = await self._repository.replace(after, expected=before.version)
        if changed is None:
            return None
        await self._publisher.publish([changed])
        return changed.session


def _is_unseen(successor: Token | None, session: Session) -> bool:
    """Return whether the successor of a token is the current one and was never presented.

    None: it cannot be derived any more, so it may be.
    """
    is_current = successor is None or successor.digest() == session.digest
    return is_current and not session.token_seen
