"""Hold sessions to the clients they are bound to: count who differs, refuse, end the session."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Final, NoReturn, Protocol

from sidegate.core.actor import SIDEGATE
from sidegate.core.binding import Policy, Signal, Signals, Widths, mismatches
from sidegate.core.errors import Conflict, RevocationPending, StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session, SessionId
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.services.sessions import Sessions

_REASON: Final = "binding"


class BindingEvents(Protocol):
    """Whoever counts. An outcome is revoked, pending, failed or dropped."""

    def binding_mismatch(self, signal: str, policy: str) -> None: ...

    def binding_revocation(self, outcome: str) -> None: ...


class ClientBinding:
    """Judges what a client shows, by a policy for each signal."""

    def __init__(
        self,
        policies: Mapping[Signal, Policy],
        *,
        widths: Widths,
        events: BindingEvents,
        revoke: Callable[[Session], None],
    ) -> None:
        """`revoke` is told of each session that is to end; it must neither wait nor fail."""
        self._policies = {
            signal: policy for signal, policy in policies.items() if policy is not Policy.OFF
        }
        self._widths = widths
        self._events = events
        self._revoke = revoke

    @property
    def watched(self) -> frozenset[Signal]:
        """The signals somebody has to read."""
        return frozenset(self._policies)

    def mismatched(self, session: Session, signals: Signals) -> tuple[Signal, ...]:
        """Return what shows that the client is not the one the session is bound to, if anything."""
        if not session.binding:
            return ()
        watched = self._policies.keys()
        return tuple(
            mismatches(session.id, session.binding, signals, self._widths, watched=watched)
        )

    def apply_policy(self, session: Session, differing: Collection[Signal]) -> Allow | Deny:
        """Count what differs of a valid session's client, and say what comes of it.

        It may be the end of the session.
        """
        broken = {self._policies[signal] for signal in differing}
        self.count(differing)
        if Policy.REVOKE in broken:
            self._revoke(session)
        if broken & {Policy.DENY, Policy.REVOKE}:
            return Deny(Reason.BINDING)
        return Allow(session)

    def count(self, differing: Iterable[Signal]) -> None:
        """Tell what differs, once more."""
        for signal in differing:
            self._events.binding_mismatch(signal.value, self._policies[signal].value)


class BackgroundRevoker:
    """Ends sessions behind everybody's back, one after the other.

    What cannot be ended is counted and let go: until it is, each of its checks is refused anyway,
    and asks for its end again.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        events: BindingEvents,
        max_waiting: int = 1000,
        patience: float = 5.0,
    ) -> None:
        """Let at most `max_waiting` sessions wait; beyond that they are dropped, and counted.

        `patience` is how many seconds a silent store is waited for when all is over.
        """
        self._sessions = sessions
        self._events = events
        self._max_waiting = max_waiting
        self._patience = patience
        self._waiting: dict[SessionId, None] = {}  # in order, and each once
        self._more = asyncio.Event()

    def revoke(self, session: Session) -> None:
        """Note that `session` is to end. Never waits and never fails."""
        if session.id in self._waiting:
            return
        if len(self._waiting) >= self._max_waiting:
            self._events.binding_revocation("dropped")
            return
        self._waiting[session.id] = None
        self._more.set()

    async def run(self) -> NoReturn:
        """End what waits, until cancelled; then end the rest."""
        try:
            while True:
                await self._more.wait()
                await self._end_all()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._end_all()

    async def _end_all(self) -> None:
        while self._waiting:
            session_id = next(iter(self._waiting))
            self._events.binding_revocation(await self._end(session_id))
            del self._waiting[session_id]
        self._more.clear()

    async def _end(self, session_id: SessionId) -> str:
        try:
            await self._sessions.revoke(session_id, by=SIDEGATE, reason=_REASON)
        except RevocationPending:
            return "pending"
        except (StoreUnavailable, UnreadableRecord, Conflict):
            return "failed"
        return "revoked"
