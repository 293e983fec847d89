"""Finders and caches of sessions."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from sidegate.core.change_log import ChangedSession, Mark
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.seal import CachePosition, Seal
from sidegate.core.session import Session


class SessionFinder(Protocol):
    """Finds sessions by digest: a store, or a wrapper around another finder."""

    async def find(self, digest: Digest) -> Session | None:
        """Return the copy of a session for `digest`, or None if there is none.

        The copy has `copy.digest == digest`. Ended sessions and tombstones are returned, too.
        """
        ...


Prefetched = MemoryEntry | StoreUnavailable | UnreadableRecord | None
"""What a prefetch has found: an entry, or why there is no answer; None: it decides nothing."""

OnPrefetched = Callable[[Prefetched], None]


class BatchFinder(Protocol):
    """A backend that finds many sessions in one round trip."""

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        """Return what `find` would for each digest; the mapping lacks those with None."""
        ...


Found = Mapping[Digest, Session] | Exception | None
"""What a batch has found: what `find_many` returns or raises; None: `find_many` has to decide."""

OnFound = Callable[[Found], None]


class SessionCache(SessionFinder, Protocol):
    """A cache of sessions. It may drop entries, and never replaces one by an older copy."""

    async def put(self, session: Session) -> Session:
        """Store the copy under `session.digest`, unless the cached one is fresher.

        Return the copy that is cached now. `Session.freshness` decides.
        """
        ...


class MemoryCache(SessionCache, Protocol):
    """The cache in this process. `epoch` grows whenever copies read before may be stale."""

    @property
    def epoch(self) -> int: ...

    def fill(self, session: Session, *, epoch: int, age: float = 0.0) -> object:
        """Put a copy that was the latest `age` seconds ago, unless `epoch` has grown since."""
        ...


@dataclass(frozen=True, slots=True)
class Fill:
    """A session that was read from the database when a remote cache was at `position`."""

    session: Session
    position: CachePosition


class RemoteCache(SessionFinder, Protocol):
    """A cache that other instances and other programs change, too, and that may go back in time.

    A lookup raises CacheNotTrusted if the cache may have missed changes.
    """

    async def fill(self, fill: Fill) -> Session:
        """Store a copy if the cache is still at the fill's position, which covers the session.

        Return the copy that is cached now, the fresher one; the session itself if it was dropped.
        """
        ...

    async def restrict(self, changes: Sequence[ChangedSession]) -> bool:
        """Apply what committed changes take away; what they allow comes with the next round.

        Return False if the cache may still have copies of an earlier state.
        """
        ...


class RemoteBatchCache(BatchFinder, Protocol):
    """A backend that finds, fills and restricts many sessions in one round trip."""

    def start_many(self, digests: Sequence[Digest], on_found: OnFound) -> bool:
        """Begin a lookup without a task; call `on_found` once after this returns.

        Return False, and never call it, if `find_many` has to be awaited. It must not raise.
        """
        ...

    async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
        """Return what `fill` would for each digest."""
        ...

    async def restrict_many(self, copies: Sequence[Session]) -> bool:
        """Apply what these copies take away, as `restrict` does."""
        ...


class SealedServer(Protocol):
    """A server of a remote cache, by a connection that leads to it, during one round.

    `seals`: the seal of each bucket of the server; None where there is none, or an unreadable one.
    """

    @property
    def seals(self) -> Mapping[int, Seal | None]: ...

    async def apply(
        self,
        changes: Sequence[Session],
        *,
        deleted: Sequence[Digest] = (),
        buckets: Collection[int],
        moved_to: Mark | None,
    ) -> set[int]:
        """Apply changed copies to `buckets`, each of which must still have its seal.

        Each seal is replaced. Without `moved_to` it keeps its mark, and only what the changes take
        away is applied. With `moved_to`, copies that it covers are stored as well, and the seals
        have that mark. Return the buckets that had their seals.
        """
        ...

    async def begin(self, mark: Mark, *, buckets: Collection[int]) -> set[int]:
        """Begin a new namespace at `mark` in buckets that still have their seals; return those."""
        ...


class SealedCache(Protocol):
    """The servers of a remote cache, for the cache follower."""

    def open_round(self) -> AbstractAsyncContextManager[Sequence[SealedServer]]:
        """Read the seals of all servers that connections lead to. Raise StoreUnavailable if none.

        `seals` of the servers are updated by `apply` and `begin`.
        """
        ...
