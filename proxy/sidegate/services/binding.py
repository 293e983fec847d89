"""Client binding: compare client signals with the session's, deny or revoke."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import Final, NoReturn, Protocol

from sidegate.core.actor import SIDEGATE
from sidegate.core.binding import (
    BindingPolicy,
    PrefixLengths,
    Signal,
    Signals,
    find_mismatches,
)
from sidegate.core.errors import Conflict, RevocationPending, StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session, SessionId
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.services.rules import RulesInForce
from sidegate.services.sessions import Sessions

_REASON: Final = "binding"


class BindingEvents(Protocol):
    """Counters. The outcome of a revocation is revoked, pending, failed or dropped."""

    def binding_mismatch(self, signal: str, policy: str) -> None: ...

    def binding_revocation(self, outcome: str) -> None: ...


class ClientBinding:
    """Judges the signals a client presents, by a policy for each signal."""

    def __init__(
        self,
        rules: RulesInForce,
        *,
        events: BindingEvents,
        revoke: Callable[[Session], None],
    ) -> None:
        """Call `revoke` with each session that is to end; it must neither wait nor fail."""
        self._rules = rules
        self._events = events
        self._revoke = revoke

    @property
    def prefix_lengths(self) -> PrefixLengths:
        """Those in force; another object after a reload."""
        return self._rules.current.prefix_lengths

    def mismatched(
        self, session: Session, signals: Signals, *, watched: Collection[Signal]
    ) -> tuple[Signal, ...]:
        """Return the signals that differ from those the session is bound to.

        `watched`: those that the caller has read. A request that began before a reload lacks the
        others, which is no mismatch.
        """
        if not session.binding:
            return ()
        prefix_lengths = self._rules.current.prefix_lengths
        return tuple(
            find_mismatches(
                session.id,
                session.binding,
                signals=signals,
                prefixes=prefix_lengths,
                watched=watched,
            )
        )

    def apply_policy(self, session: Session, mismatched: Collection[Signal]) -> Allow | Deny:
        """Count the mismatches of a valid session and return their policies' verdict.

        Under the policy `revoke` the session is revoked in the background as well.
        """
        if not mismatched:
            return Allow(session)
        policies = {policy for _, policy in self._find_policies(mismatched)}
        self.count_mismatches(mismatched)
        if BindingPolicy.REVOKE in policies:
            self._revoke(session)
        if policies & {BindingPolicy.DENY, BindingPolicy.REVOKE}:
            return Deny(Reason.BINDING)
        return Allow(session)

    def count_mismatches(self, mismatched: Iterable[Signal]) -> None:
        """Count each of these signals under its policy."""
        for signal, policy in self._find_policies(mismatched):
            self._events.binding_mismatch(signal.value, policy.value)

    def _find_policies(
        self, mismatched: Iterable[Signal]
    ) -> Iterator[tuple[Signal, BindingPolicy]]:
        """Yield each signal with its policy, except those that are not compared any more."""
        policies = self._rules.current.binding_policies
        for signal in mismatched:
            policy = policies.get(signal, BindingPolicy.OFF)
            if policy is not BindingPolicy.OFF:
                yield signal, policy


class BackgroundRevoker:
    """Revokes sessions in the background, one after the other.

    A failure is counted and not retried: until the session has ended, each of its checks is denied
    anyway and requests the revocation again.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        events: BindingEvents,
        max_waiting: int = 1000,
        timeout: float = 5.0,
    ) -> None:
        """Queue at most `max_waiting` sessions; further ones are counted as dropped.

        `timeout` is how many seconds the rest may take on shutdown.
        """
        self._sessions = sessions
        self._events = events
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._waiting: dict[SessionId, None] = {}  # an ordered set
        self._wakeup = asyncio.Event()

    def revoke(self, session: Session) -> None:
        """Queue `session` for revocation. Never waits and never fails."""
        if session.id in self._waiting:
            return
        if len(self._waiting) >= self._max_waiting:
            self._events.binding_revocation("dropped")
            return
        self._waiting[session.id] = None
        self._wakeup.set()

    async def run(self) -> NoReturn:
        """Revoke queued sessions until cancelled; then revoke the rest."""
        try:
            while True:
                await self._wakeup.wait()
                await self._revoke_all()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self._revoke_all()

    async def _revoke_all(self) -> None:
        while self._waiting:
            session_id = next(iter(self._waiting))
            try:
                self._events.binding_revocation(await self._revoke_one(session_id))
            except Exception:
                del self._waiting[session_id]  # it must not block the others
                raise
            del self._waiting[session_id]
        self._wakeup.clear()

    async def _revoke_one(self, session_id: SessionId) -> str:
        try:
            await self._sessions.revoke(session_id, by=SIDEGATE, reason=_REASON)
        except RevocationPending:
            return "pending"
        except (StoreUnavailable, UnreadableRecord, Conflict):
            return "failed"
        return "revoked"
