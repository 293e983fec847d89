"""What the verbs work with: the truth, who is to be told, and the rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidegate.core.clock import Clock
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.limits import Limit
from sidegate.core.protocols import DurableStore, Feed, SessionCache
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest, KeyRing
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.publisher import ignore_undelivered, publish


class LifeEvents(Protocol):
    """Whoever counts beginnings and ends. A cause is one of a few fixed words."""

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...


@dataclass(frozen=True)
class SessionContext:
    """Handed to every verb's class by the composition root.

    `hot` runs from near to far; `owe` is told what one of them could not be told. `limits`, of the
    types that have one, say how many sessions of a user and tenant may live at once. `pending`
    takes revocations while the truth is away.
    """

    durable: DurableStore
    caches: Sequence[SessionCache]
    feed: Feed
    ring: KeyRing
    lifetimes: Mapping[SessionType, Lifetimes]
    clock: Clock
    events: LifeEvents
    limits: Mapping[SessionType, Limit] = field(default_factory=dict)
    redeliver_later: Callable[[Sequence[Session]], None] = ignore_undelivered
    pending: PendingRevocations | None = None

    def with_pending(self, record: SessionRecord) -> SessionRecord:
        """Return what the truth says of a session, and what it will say when it can be told."""
        return record if self.pending is None else self.pending.written_in(record)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session as it is, ended or not, or None."""
        record = await self.durable.get(session_id)
        return None if record is None else self.with_pending(record)

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        """Return the session, as it is, to which `digest` leads or ever led, or None."""
        record = await self.durable.find_by_any_digest(digest)
        return None if record is None else self.with_pending(record)

    async def publish(self, changed: Sequence[Session]) -> None:
        """Tell whoever holds copies what the durable store has acknowledged."""
        await publish(changed, self.caches, self.feed, self.redeliver_later)

    async def publish_ended(self, tombstones: Sequence[Session], *, cause: str) -> None:
        """Count and tell that these sessions have ended."""
        for tombstone in tombstones:
            self.events.ended(tombstone, cause)
        await self.publish(tombstones)
