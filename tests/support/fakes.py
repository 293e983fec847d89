"""Stores that fail and block on demand, for cases that real servers cannot reproduce."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from math import inf

from sidegate.core.change_log import ChangedSession
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import Fill, Found, OnFound, OnPrefetched, SessionFinder
from sidegate.core.seal import CachePosition
from sidegate.core.session import EPOCH, Session


class FakeBackend:
    """A session finder, a batch backend and a remote cache in one dictionary."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = {session.digest: session for session in sessions}
        self.down = False
        self.has_seal = True  # while it is False, fills are dropped and restrictions refused
        self.unreadable: set[Digest] = set()
        self.unblocked = asyncio.Event()  # while cleared, replies wait
        self.unblocked.set()
        self.starts = False  # lookups of batches, without a task of theirs
        self._started: set[asyncio.Task[None]] = set()
        self.lookups: list[tuple[Digest, ...]] = []
        self.fills: list[Fill] = []
        self._blocked: dict[Digest, Session] = {}  # older copies than these are not stored

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        self.lookups.append(tuple(digests))
        await self.unblocked.wait()
        if self.down:
            raise StoreUnavailable("backend", "down on demand")
        if self.unreadable.intersection(digests):
            raise UnreadableRecord("unreadable on demand")
        return {digest: self.sessions[digest] for digest in digests if digest in self.sessions}

    def start_many(self, digests: Sequence[Digest], on_found: OnFound) -> bool:
        if self.starts:
            started = asyncio.create_task(self._call_back(digests, on_found))
            self._started.add(started)
            started.add_done_callback(self._started.discard)
        return self.starts

    async def _call_back(self, digests: Sequence[Digest], on_found: OnFound) -> None:
        found: Found
        try:
            found = await self.find_many(digests)
        except Exception as error:  # noqa: BLE001 - as a backend does
            found = error
        on_found(found)

    async def put(self, session: Session) -> Session:
        await self.unblocked.wait()
        if self.down:
            raise StoreUnavailable("backend", "down on demand")
        return self._keep_fresher(session)

    async def fill(self, fill: Fill) -> Session:
        return (await self.fill_many({fill.session.digest: fill}))[fill.session.digest]

    async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
        self.fills.extend(fills.values())
        return {
            digest: await self.put(fill.session) if self.has_seal else fill.session
            for digest, fill in fills.items()
        }

    async def restrict(self, changes: Sequence[ChangedSession]) -> bool:
        return await self.restrict_many([copy for change in changes for copy in change.copies()])

    async def restrict_many(self, copies: Sequence[Session]) -> bool:
        await self.unblocked.wait()
        if self.down:
            raise StoreUnavailable("backend", "down on demand")
        for copy in copies if self.has_seal else ():
            if copy.valid_until == EPOCH:
                self._keep_fresher(copy)
            else:
                self._block_older(copy)
        return self.has_seal

    def _keep_fresher(self, session: Session) -> Session:
        blocked = self._blocked.get(session.digest)
        if blocked is not None and blocked.freshness > session.freshness:
            return session
        kept = self.sessions.get(session.digest)
        if kept is None or kept.freshness <= session.freshness:
            self.sessions[session.digest] = kept = session
        return kept

    def _block_older(self, session: Session) -> None:
        kept = self.sessions.get(session.digest)
        if kept is None or kept.freshness <= session.freshness:
            self.sessions.pop(session.digest, None)
            self._blocked[session.digest] = session


class FakeMemory:
    """A MemoryCache that drops nothing. `ages` are those of the latest fills, by digest."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = {session.digest: session for session in sessions}
        self.ages: dict[Digest, float] = {}
        self.epoch = 0

    async def find(self, digest: Digest) -> Session | None:
        return self.sessions.get(digest)

    async def put(self, session: Session) -> Session:
        kept = self.sessions.get(session.digest)
        if kept is None or kept.freshness <= session.freshness:
            self.sessions[session.digest] = kept = session
        return kept

    def fill(self, session: Session, *, epoch: int, age: float = 0.0) -> Session:
        kept = self.sessions.get(session.digest)
        if epoch == self.epoch and (kept is None or kept.freshness <= session.freshness):
            self.sessions[session.digest] = session
            self.ages[session.digest] = age
        return session


class FakeCacheTrust:
    """A CacheTrust whose position and age a test sets.

    `changes` are the copies of recorded changes, `reasons` those of invalidations.
    """

    def __init__(self, position: CachePosition, *, age: float = 0.0) -> None:
        self.position = position
        self.age = age
        self.changes: list[Session] = []
        self.reasons: list[str] = []

    def record_changes(self, copies: Iterable[Session]) -> None:
        self.changes += copies

    def invalidate(self, reason: str) -> None:
        self.reasons.append(reason)


def raise_on_revocation(session: Session) -> None:
    """Fail the test. It is passed as the revocation callback where no signals may mismatch."""
    raise AssertionError(session)


class FakeLookup:
    """A lookup whose parts a test provides: `finder` for `find`, others for memory and prefetch.

    `after_prefetch` is for `find(skip_redis=True)`; None: `finder`. `entries` are kept as long as
    `memory` returns the same session.
    """

    def __init__(
        self,
        finder: SessionFinder,
        *,
        memory: Callable[[Digest], Session | None] = lambda _: None,
        prefetch: Callable[[Digest, OnPrefetched, float], bool] = lambda _, __, ___: False,
        after_prefetch: SessionFinder | None = None,
    ) -> None:
        self.entries: dict[Digest, MemoryEntry] = {}
        self._memory = memory
        self._finder = finder
        self._prefetch = prefetch
        self._after_prefetch = after_prefetch or finder

    def peek(self, digest: Digest) -> MemoryEntry | None:
        session = self._memory(digest)
        if session is None:
            return None
        entry = self.entries.get(digest)
        if entry is None or entry.session is not session:
            entry = self.entries[digest] = MemoryEntry(session, inf)
        return entry

    def prefetch(self, digest: Digest, on_done: OnPrefetched, *, timeout: float) -> bool:
        return self._prefetch(digest, on_done, timeout)

    async def find(self, digest: Digest, *, skip_redis: bool = False) -> Session | None:
        return await (self._after_prefetch if skip_redis else self._finder).find(digest)


def know_idleness(_: Session, __: datetime) -> None:
    """A session that looks idle is idle."""
