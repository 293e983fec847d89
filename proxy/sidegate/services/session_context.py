"""What the verbs work with: the truth, who is to be told, and the rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidegate.core.clock import Clock
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.limits import Limit
from sidegate.core.protocols import DurableStore, Feed, HotStore
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import Digest, KeyRing
from sidegate.services.pending_revocations import Pending
from sidegate.services.publisher import nothing_owed, tell


class LifeEvents(Protocol):
    """Whoever counts beginnings and ends. A cause is one of a few fixed words."""

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...


@dataclass(frozen=True)
class Means:
    """Handed to every verb's class by the composition root.

    `hot` runs from near to far; `owe` is told what one of them could not be told. `limits`, of the
    types that have one, say how many sessions of a user and tenant may live at once. `pending`
    takes revocations while the truth is away.
    """

    durable: DurableStore
    hot: Sequence[HotStore]
    feed: Feed
    ring: KeyRing
    lifetimes: Mapping[SessionType, Lifetimes]
    clock: Clock
    events: LifeEvents
    limits: Mapping[SessionType, Limit] = field(default_factory=dict)
    owe: Callable[[Sequence[Session]], None] = nothing_owed
    pending: Pending | None = None

    def as_it_is(self, record: SessionRecord) -> SessionRecord:
        """Return what the truth says of a session, and what it will say when it can be told."""
        return record if self.pending is None else self.pending.written_in(record)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session as it is, ended or not, or None."""
        record = await self.durable.get(session_id)
        return None if record is None else self.as_it_is(record)

    async def owner(self, digest: Digest) -> SessionRecord | None:
        """Return the session, as it is, to which `digest` leads or ever led, or None."""
        record = await self.durable.owner(digest)
        return None if record is None else self.as_it_is(record)

    async def tell(self, changed: Sequence[Session]) -> None:
        """Tell whoever holds copies what the durable store has acknowledged."""
        await tell(changed, self.hot, self.feed, self.owe)

    async def over(self, tombstones: Sequence[Session], *, cause: str) -> None:
        """Count and tell that these sessions have ended."""
        for tombstone in tombstones:
            self.events.ended(tombstone, cause)
        await self.tell(tombstones)
