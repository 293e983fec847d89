"""The in-process cache: bounded in entries and bytes, with a time to live of a few seconds."""

import random
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final

from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.session import Session

# Bytes of an entry without its texts: the session, its place here, and its cached reply. Measured,
# like all of `estimate_size`, in tests/stores/test_memory_size.py.
_ENTRY_BYTES: Final = 935
_BINDING_BYTES: Final = 350  # with the client's signals, some of which many clients share
_SCOPE_BYTES: Final = 60  # for each scope: how many sessions will share it is not known
_DEFAULT_NAMES_LENGTH: Final = 74  # characters of the default names of the reply's headers

# Times to live are shortened by up to a tenth at random, so that entries that were made together
# do not expire together.
_JITTER: Final = 0.1

_EXPIRED: Final = float("-inf")


class MemoryStore:
    """A cache in this process, which evicts the least recently used entries first.

    An expired entry is not returned any more, but is kept for comparison: a late fill with a staler
    session still loses to it.

    `hits`, `misses` and `size_bytes` (as `estimate_size` says) are statistics.
    """

    def __init__(
        self,
        *,
        max_sessions: int,
        max_bytes: int,
        max_age: float,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
        apply_pending: Callable[[Session], Session] = lambda session: session,
    ) -> None:
        """Keep at most `max_sessions` entries, estimated at no more than `max_bytes`.

        Each lives for at most `max_age` seconds of `clock.monotonic`. `apply_pending` is applied to
        each session that is returned; it must neither wait nor raise.
        """
        self.hits = 0
        self.misses = 0
        self.epoch = 0  # grows whenever copies read from a store before may be stale
        self._estimated_bytes = 0
        self._extra_bytes = 0  # of each entry, beyond `estimate_size`
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._monotonic = clock.monotonic
        self._jitter = jitter
        self._apply_pending = apply_pending
        self._entries: OrderedDict[Digest, MemoryEntry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        return self._estimated_bytes + self._extra_bytes * len(self._entries)

    async def find(self, digest: Digest) -> Session | None:
        """Return the session without waiting: no task, no lock, no socket."""
        session = self.get_nowait(digest)
        if session is None:
            self.misses += 1
        return session

    async def put(self, session: Session) -> Session:
        """Put the session without waiting."""
        return self.put_nowait(session)

    def get_nowait(self, digest: Digest) -> Session | None:
        """Find without awaiting. A miss is not counted: the caller's later lookup counts it."""
        entry = self.get_entry(digest)
        return None if entry is None else entry.session

    def get_entry(self, digest: Digest) -> MemoryEntry | None:
        """Return the entry that `get_nowait` would return the session of."""
        entry = self._entries.get(digest)
        if entry is None or self._monotonic() >= entry.fresh_until:
            return None
        self._entries.move_to_end(digest)
        self.hits += 1
        # As `_with_pending`, without its frame: every check comes here.
        session = self._apply_pending(entry.session)
        return entry if session is entry.session else MemoryEntry(session, entry.fresh_until)

    def set_reply_headers(self, headers: Collection[str]) -> None:
        """Set the names of the headers that each cached reply contains, for the size estimate."""
        self._extra_bytes = max(0, sum(map(len, headers)) - _DEFAULT_NAMES_LENGTH)
        self._evict()

    def put_nowait(self, session: Session) -> Session:
        """Put without awaiting. An equal session renews the time to live of the kept one."""
        return self.put_entry(session).session

    def put_entry(self, session: Session, *, age: float = 0.0) -> MemoryEntry:
        """Put as `put_nowait` does a copy of this age in seconds; return the entry that is kept.

        A kept session that has seen more activity, and no other change, is renewed as an equal one.
        """
        entry = self._entries.get(session.digest)
        fresh_until = self._monotonic() + self._time_to_live() - age
        if entry is not None and entry.session.freshness > session.freshness:
            if _differ_by_activity_only(entry.session, session):
                entry.fresh_until = max(entry.fresh_until, fresh_until)
            return self._with_pending(entry)
        if entry is not None and entry.session == session:
            # It keeps what was derived from it.
            entry.fresh_until = max(entry.fresh_until, fresh_until)
        else:
            entry = self._replace(entry, session, fresh_until=fresh_until)
        self._entries.move_to_end(session.digest)
        self._evict()
        return self._with_pending(entry)

    def fill(self, session: Session, *, epoch: int, age: float = 0.0) -> MemoryEntry:
        """Put a session that was read from a store when `epoch` was that of this memory.

        Its time to live counts from when it was certainly the latest, `age` seconds ago. It is not
        kept if entries have been expired or cleared since, as it may be stale, too.
        """
        if epoch == self.epoch:
            return self.put_entry(session, age=age)
        return MemoryEntry(self._apply_pending(session), _EXPIRED)

    def touch(self, session: Session) -> None:
        """Replace the session by one seen later. Its time to live is not renewed."""
        kept = self._entries.get(session.digest)
        if kept is None or kept.session.freshness > session.freshness:
            return
        self._replace(kept, session, fresh_until=kept.fresh_until)

    def tombstones(self) -> list[Session]:
        """Return the revoked sessions that are kept here."""
        return [
            entry.session
            for entry in self._entries.values()
            if entry.session.revoked_at is not None
        ]

    def expire_all(self) -> None:
        """Expire all entries, as after change notifications that may have been missed.

        They are kept for comparison: a staler session does not replace a tombstone.
        """
        self.epoch += 1
        for entry in self._entries.values():
            entry.fresh_until = _EXPIRED

    def clear(self) -> None:
        """Delete all entries, as when the database itself has gone back in time."""
        self.epoch += 1
        self._entries.clear()
        self._estimated_bytes = 0

    def _replace(
        self, kept: MemoryEntry | None, session: Session, *, fresh_until: float
    ) -> MemoryEntry:
        """Put an entry instead of the one that was kept for the same digest, if there was one."""
        size = estimate_size(session)
        self._estimated_bytes += size if kept is None else size - kept.size
        entry = self._entries[session.digest] = MemoryEntry(session, fresh_until, size=size)
        return entry

    def _evict(self) -> None:
        while len(self._entries) > self._max_sessions or self.size_bytes > self._max_bytes:
            _, entry = self._entries.popitem(last=False)
            self._estimated_bytes -= entry.size

    def _with_pending(self, entry: MemoryEntry) -> MemoryEntry:
        """Return the entry; while a pending revocation applies, one of its own with that."""
        session = self._apply_pending(entry.session)
        return entry if session is entry.session else MemoryEntry(session, entry.fresh_until)

    def _time_to_live(self) -> float:
        return self._max_age * (1 - _JITTER * self._jitter())


def _differ_by_activity_only(kept: Session, offered: Session) -> bool:
    return kept.version == offered.version and kept.revoked_at == offered.revoked_at


def estimate_size(session: Session) -> int:
    """Estimate the bytes of an entry, including its cached reply."""
    # Once as text and once in the reply, where a non-ASCII character takes up to twelve bytes.
    user = 2 * len(session.user_id) if session.user_id.isascii() else 16 * len(session.user_id)
    binding = _BINDING_BYTES + len(session.binding) if session.binding else 0
    scopes = session.scopes  # also in the reply
    return _ENTRY_BYTES + user + _SCOPE_BYTES * len(scopes) + 2 * sum(map(len, scopes)) + binding
