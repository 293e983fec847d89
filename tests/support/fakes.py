"""A store that breaks and waits on demand, for what real servers cannot be made to do at will."""

import asyncio
from collections.abc import Mapping, Sequence

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.core.token import Digest


class Shelf:
    """A finder, a leaf and a hot store in one dictionary."""

    def __init__(self, *sessions: Session) -> None:
        self.sessions = {session.digest: session for session in sessions}
        self.down = False
        self.unreadable: set[Digest] = set()
        self.open = asyncio.Event()  # clear it, and answers wait until it is set
        self.open.set()
        self.asked: list[tuple[Digest, ...]] = []

    async def find(self, digest: Digest) -> Session | None:
        return (await self.find_many((digest,))).get(digest)

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        self.asked.append(tuple(digests))
        await self.open.wait()
        if self.down:
            raise StoreUnavailable("shelf", "told to be down")
        if self.unreadable.intersection(digests):
            raise UnreadableRecord("told to be unreadable")
        return {digest: self.sessions[digest] for digest in digests if digest in self.sessions}

    async def put(self, session: Session) -> Session:
        await self.open.wait()
        if self.down:
            raise StoreUnavailable("shelf", "told to be down")
        kept = self.sessions.get(session.digest)
        if kept is None or kept.freshness <= session.freshness:
            self.sessions[session.digest] = kept = session
        return kept

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        return {digest: await self.put(session) for digest, session in sessions.items()}


def ends_nobody(session: Session) -> None:
    """Take the place of whoever ends a session for its client, where no client is to differ."""
    raise AssertionError(session)
