"""What stores promise. Absence is an answer; an error is an outage.

Every method raises StoreUnavailable when the store cannot answer, and nothing else for that; one
that changes something raises OutcomeUnknown, a kind of it, when it may have been changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from sidegate.core.actor import Actor
from sidegate.core.analytics import ActiveSessions, Sample, Totals, Window
from sidegate.core.audit import AuditEvent, AuditFilter, Seal
from sidegate.core.condition import Condition
from sidegate.core.limits import Limit
from sidegate.core.lock import Contended, Hold, LeaseDigest
from sidegate.core.pending import PendingRevocation
from sidegate.core.session import Session, SessionId, SessionRecord
from sidegate.core.session_state import SessionState
from sidegate.core.token import Digest


class SessionFinder(Protocol):
    """Whoever can be asked for a session by digest: a leaf, or a wrapper round another finder."""

    async def find(self, digest: Digest) -> Session | None:
        """Return the copy that answers for `digest`, tombstones included, or None: not there.

        StoreUnavailable: could not look.
        """
        ...


class BatchFinder(Protocol):
    """A leaf that answers many questions in one round trip."""

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        """Return what is there; an absent digest is absent from the answer."""
        ...


class SessionCache(SessionFinder, Protocol):
    """May forget, never goes back in time."""

    async def put(self, session: Session) -> Session:
        """Offer a copy for `session.digest`; keep the fresher of it and what is there.

        Return the one that was kept.
        """
        ...


class BatchCache(BatchFinder, Protocol):
    """A hot store that answers many questions, and takes many copies, in one round trip."""

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        """Put each under its own digest, and return what was kept under each."""
        ...


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: lists run from the newest session to the oldest."""

    created_at: datetime
    id: SessionId


@dataclass(frozen=True, slots=True)
class Touch:
    """A session was seen so many times, the last time at `seen_at`."""

    id: SessionId
    seen_at: datetime
    times: int


@dataclass(frozen=True, slots=True)
class RotatedOut:
    """A digest opened until `until`; with its token, `nonce` gives the successor.

    Without a nonce nobody may ask for the successor: the session was migrated.
    """

    until: datetime
    nonce: bytes | None = field(repr=False)


class DurableStore(SessionFinder, BatchFinder, Protocol):
    """The truth. Changes a session only by compare-and-set on its version."""

    async def create(self, record: SessionRecord, *, limit: Limit | None = None) -> list[Session]:
        """Store a new session, and return the tombstones of those that had to end for it.

        Of all that live when it begins, its user keeps at most as many of its type and tenant as
        `limit` says, it included, however many are created at once. LimitReached: none was to end
        for it. SessionExists: its id, digest or claim is taken. In either case nothing changed.
        """
        ...

    async def find_by_idempotency_key(self, claim: bytes) -> SessionRecord | None:
        """Return the session that was created under `claim`, ended or not."""
        ...

    async def get(self, session_id: SessionId) -> SessionRecord | None:
        """Return the session with this id, ended or not."""
        ...

    async def rotated_out(self, digest: Digest) -> RotatedOut | None:
        """Return how a digest was rotated out; None: it was not."""
        ...

    async def find_by_any_digest(self, digest: Digest) -> SessionRecord | None:
        """Return the session to which `digest` leads or ever led, ended or not."""
        ...

    async def list_where(
        self,
        condition: Condition,
        *,
        limit: int,
        after: Cursor | None = None,
        state: tuple[SessionState, datetime] | None = None,
    ) -> list[SessionRecord]:
        """Return at most `limit` sessions that match, newest first, beyond `after`.

        With `state`, only those that are in it at that moment.
        """
        ...

    async def count_where(self, condition: Condition, *, at: datetime) -> int:
        """Return how many sessions `revoke_where` would revoke, without its limit."""
        ...

    async def replace(self, record: SessionRecord, *, expected: int) -> bool:
        """Store the next version of a session if the stored one still is version `expected`.

        The digest a rotation leaves behind is remembered as long as the session is.
        False: it is not (or there is no such session), and nothing changed.
        """
        ...

    async def replace_within(
        self, record: SessionRecord, *, expected: int, limit: Limit, at: datetime
    ) -> list[Session] | None:
        """Replace, where that makes it one more living session of its type, as `create` would.

        Return the tombstones of those that had to end for it; None: the stored one is not version
        `expected`. LimitReached: none was to end for it. In either case nothing changed.
        """
        ...

    async def revoke_where(
        self,
        condition: Condition,
        *,
        at: datetime,
        by: Actor,
        reason: str,
        limit: int,
        after: SessionId | None = None,
    ) -> list[Session]:
        """Revoke sessions matching `condition` that are neither revoked nor past their absolute
        deadline, the `limit` lowest ids beyond `after`; return the tombstones in that order.

        Only an empty list says that there are no more: a row that cannot be read is revoked, too,
        and not returned. So is one that looks idle: that it was seen may be told late, by a touch.
        """
        ...

    async def touch(self, touches: Sequence[Touch]) -> list[Session]:
        """Raise last_seen_at and access_count; change no version, no state, and nothing else.

        Whoever touches has allowed the session at `seen_at`: that others saw it idle by then, since
        they had not been told, is mended. A session that is gone, revoked or past
        its absolute deadline at `seen_at` is passed over: a touch revives nobody. No id may appear
        twice. Return the touched sessions as they are now.
        """
        ...

    async def generation(self) -> int:
        """Return which generation of copies hot stores may be believed.

        It only ever grows, and one that was lost with a failover does not come again.
        """
        ...

    async def next_generation(self, after: int) -> int:
        """Begin the one after `after`, and return it: a hot store missed a change, and no copy in
        it is believed any more. Another instance has begun it already: return the present one.
        """
        ...

    async def purge(self, expired_before: datetime, *, limit: int) -> int:
        """Delete at most `limit` sessions whose absolute deadline lies before; return how many.

        0, too, while another instance is purging.
        """
        ...

    async def changed_since(self, mark: int) -> tuple[int, list[Session]]:
        """Return sessions changed by replace or revoke_where since `mark`, and the next mark.

        A mark is opaque; 0 means "from now on" and returns no sessions. A change may be returned
        twice, but is never left out, in whatever order concurrent writers commit. MarkLost: the
        store is not where it was (a replica took over, say); begin again with 0.
        """
        ...

    async def last_changed(self, most: int) -> list[Session]:
        """Return at most `most` sessions: those that replace or revoke_where changed last."""
        ...

    async def ping(self) -> None:
        """Return when the store can answer."""
        ...

    async def close(self) -> None:
        """Let go of everything. The store is not asked again."""
        ...


class AuditLog(Protocol):
    """The events of the durable store, and their chain. Nobody writes an event but the store."""

    async def events(
        self, wanted: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        """Return at most `limit` events that match, the highest number first, below `before`."""
        ...

    async def unsealed(self, *, limit: int) -> list[AuditEvent]:
        """Return at most `limit` events that have no seal yet, the lowest number first."""
        ...

    async def head(self) -> Seal:
        """Return the last seal; where there is none, what the first one follows."""
        ...

    async def seal(self, seals: Sequence[tuple[int, Seal]]) -> bool:
        """Give the events of these numbers their seals; False: another instance was quicker.

        They follow the head in the order of the numbers. Then some may be sealed, but all rightly.
        """
        ...

    async def anchor(self) -> Seal:
        """Return what the oldest sealed event that is left is sealed to."""
        ...

    async def chain(self, *, after: int, limit: int) -> list[tuple[AuditEvent, Seal]]:
        """Return at most `limit` sealed events in the order of their links, beyond link `after`."""
        ...

    async def forget(self, before: datetime, *, limit: int) -> int:
        """Delete sealed events from the beginning of the chain, at most `limit`, up to the first
        that is not older than `before`; return how many. The anchor moves with them.
        """
        ...


class AnalyticsStore(Protocol):
    """What the durable store counts of its sessions, and the samples that were taken of it.

    It notes each beginning and each end in the statement that brings it about. Each step below is
    whole in itself: whoever dies between two of them has lost nothing and counted nothing twice,
    and several may be at it at once.
    """

    async def take_turn(self, at: datetime, every: timedelta) -> bool:
        """Say whether a sample is due, and that the caller is to take it: one of all who ask."""
        ...

    async def note_ends(self, at: datetime, *, limit: int) -> int:
        """Note at most `limit` sessions that have ended by themselves by then; return how many.

        Fewer than `limit` say that there are no more. May take seconds, but holds nobody up.
        """
        ...

    async def add_up(self, *, limit: int) -> int:
        """Add at most `limit` beginnings and ends to the totals; return how many.

        Fewer than `limit` say that there are no more.
        """
        ...

    async def living(self, at: datetime) -> ActiveSessions:
        """Count the active sessions. May take seconds, but holds nobody up."""
        ...

    async def totals(self) -> Totals:
        """Return the totals of all that has been added up."""
        ...

    async def keep(self, sample: Sample) -> None:
        """Keep a sample. It is the last one then, whatever its moment."""
        ...

    async def last(self) -> Sample | None:
        """Return the last sample; None: there is none yet."""
        ...

    async def window(self, since: datetime, until: datetime) -> Window | None:
        """Return the window that begins with the last sample that is no later than `since`, or
        with the first there is, and ends with `until`. None: there is no sample until then.
        """
        ...

    async def forget(self, before: datetime, *, limit: int) -> None:
        """Delete samples from before then, at most the `limit` oldest."""
        ...


class SessionLocks(Protocol):
    """The locks of the durable store. Their time runs by its clock, and by no other.

    A lock is no state of its session: it changes no version and leaves no event. It goes with its
    session when that is purged.
    """

    async def acquire(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta, holder: str | None
    ) -> Hold | Contended | None:
        """Hold the lock for `ttl`, unless somebody holds it. None: there is no such session.

        Of many who try at once, one gets it. StoreUnavailable leaves open whether the lock is held
        by `lease` now.
        """
        ...

    async def renew(
        self, session_id: SessionId, lease: LeaseDigest, *, ttl: timedelta
    ) -> Hold | None:
        """Hold it for `ttl` from now, or for as long as before if that is longer, under its fence.

        None: `lease` does not hold it any more, or never did; nothing changed.
        """
        ...

    async def release(self, session_id: SessionId, lease: LeaseDigest) -> bool:
        """Let go of the lock. False: `lease` did not hold it; nothing changed."""
        ...


class LogoutTokenStore(Protocol):
    """Which logout tokens have been obeyed, by whatever instance. An id is 32 bytes."""

    async def was_processed(self, logout_id: bytes) -> bool:
        """Say whether this one is remembered."""
        ...

    async def remember(self, logout_id: bytes, *, until: datetime, at: datetime) -> bool:
        """Remember one; False: it was already. Of all who try at once, one alone is told True.

        It is forgotten after `until`, together with the next one that is remembered later than
        that; `at` is now.
        """


class PendingRevocationStore(Protocol):
    """Where instances share pending revocations. It may forget all of them at once."""

    async def put(self, revocations: Sequence[PendingRevocation]) -> None:
        """Keep them, and let every instance know that there are more."""
        ...

    async def compare(self, known: set[str]) -> tuple[list[PendingRevocation], set[str]]:
        """Return those that are kept and not `known`, and which of the `known` are not kept."""
        ...

    async def remove(self, revocation: PendingRevocation) -> None:
        """Keep it no longer: it is written down."""
        ...


class Feed(Protocol):
    """Tells the other instances which sessions have changed."""

    async def publish(self, sessions: Iterable[Session]) -> None:
        """Tell everybody. Best effort: the catch-up on the durable store finds what is lost."""
        ...
