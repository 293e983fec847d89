"""What the session services share: stores, feed, rules, clock and counters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.lifetimes import Lifetimes
from sidegate.core.limits import Limit
from sidegate.core.protocols import DurableStore, Feed, SessionCache
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing
from sidegate.services.pending_revocations import PendingRevocations
from sidegate.services.publisher import ignore_undelivered, publish


class SessionEvents(Protocol):
    """Counters of created and ended sessions. A cause is one of a few fixed words."""

    def created(self, session: Session) -> None: ...

    def ended(self, session: Session, cause: str) -> None: ...


@dataclass(frozen=True)
class SessionContext:
    """Dependencies of the session services, built by the composition root.

    `caches` begins with this process's memory. `redeliver_later` receives changes that a cache
    missed. `limits` holds, for the types that have one, how many sessions of a user and tenant may
    be active at once. `pending` takes revocations while the database is unavailable.
    """

    durable: DurableStore
    caches: Sequence[SessionCache]
    feed: Feed
    ring: KeyRing
    lifetimes: Mapping[SessionType, Lifetimes]
    clock: Clock
    events: SessionEvents
    limits: Mapping[SessionType, Limit] = field(default_factory=dict)
    redeliver_later: Callable[[Sequence[Session]], None] = ignore_undelivered
    pending: PendingRevocations | None = None

    def with_pending(self, record: SessionRecord) -> SessionRecord:
        """Return the record as it will be once pending revocations are persisted."""
        return record if self.pending is None else self.pending.apply_to_record(record)

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session with pending revocations applied, ended or not, or None."""
        record = await self.durable.get(session_id)
        return None if record is None else self.with_pending(record)

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        """Return the session to which `digest` leads or ever led, as `get` does, or None."""
        record = await self.durable.find_by_any_digest(digest)
        return None if record is None else self.with_pending(record)

    async def publish(self, changed: Sequence[Session]) -> None:
        """Publish committed changes to the caches and the feed."""
        await publish(changed, self.caches, self.feed, self.redeliver_later)

    async def publish_ended(self, tombstones: Sequence[Session], *, cause: str) -> None:
        """Count and publish the end of these sessions."""
        for tombstone in tombstones:
            self.events.ended(tombstone, cause)
        await self.publish(tombstones)
