"""A store that fails and blocks on demand, for cases that real servers cannot reproduce."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import inf

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import SessionFinder
from sidegate.core.session import Session


class FakeBackend:
    """A session finder, a batch backend and a cache in one dictionary."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = {session.digest: session for session in sessions}
        self.down = False
        self.unreadable: set[Digest] = set()
        self.unblocked = asyncio.Event()  # while cleared, replies wait
        self.unblocked.set()
        self.lookups: list[tuple[Digest, ...]] = []

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

    async def put(self, session: Session) -> Session:
        await self.unblocked.wait()
        if self.down:
            raise StoreUnavailable("backend", "down on demand")
        kept = self.sessions.get(session.digest)
        if kept is None or kept.freshness <= session.freshness:
            self.sessions[session.digest] = kept = session
        return kept

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        return {digest: await self.put(session) for digest, session in sessions.items()}


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
        prefetch: Callable[[Digest, Callable[[MemoryEntry | None], None], float], bool] = (
            lambda _, __, ___: False
        ),
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

    def prefetch(
        self, digest: Digest, on_done: Callable[[MemoryEntry | None], None], *, timeout: float
    ) -> bool:
        return self._prefetch(digest, on_done, timeout)

    async def find(self, digest: Digest, *, skip_redis: bool = False) -> Session | None:
        return await (self._after_prefetch if skip_redis else self._finder).find(digest)
