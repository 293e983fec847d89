"""Redis stores that are trusted: each makes its own rounds, when a test asks for one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import uuid4

from sidegate.core.change_log import Mark
from sidegate.core.digest import Digest
from sidegate.core.errors import CacheNotTrusted
from sidegate.core.protocols import Fill, Found
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.core.snapshot import Snapshot
from sidegate.services.cache_follower import CacheFollower
from sidegate.stores.client.redis_trust import RedisTrust
from sidegate.stores.redis.store import RedisStore
from tests.services.change_log import FakeChangeLog
from tests.support.clock import FakeClock
from tests.support.replace import replace

HOUR: Final = 3600.0


def build_mark(xmax: int = 100, *in_progress: int) -> Mark:
    """Return a mark that covers the transactions before `xmax`, except for those in progress."""
    xmin = min(in_progress, default=xmax)
    return Mark(Snapshot(xmin, xmax, frozenset(in_progress)), "1", uuid4())


def build_redis_trust(*seals: Seal) -> RedisTrust:
    """Return a trust in these seals, or in one, that does not lapse."""
    seals = seals or (Seal.begin(build_mark()),)
    trust = RedisTrust(monotonic=FakeClock().monotonic, trust_without_database=HOUR)
    trust.confirm({seal.namespace: seal for seal in seals}, trust.begin_round())
    return trust


class FollowedRedis(RedisStore):
    """A RedisStore that follows a change log in memory, by the rounds of the product.

    Its trust lapses by a clock that only a test advances. Instances of one deployment share a
    change log.
    """

    def __init__(
        self,
        url: str,
        *,
        on_unreadable: Callable[[str], None] = lambda _: None,
        timeout: float = 5.0,
        change_log: FakeChangeLog | None = None,
    ) -> None:
        """The default timeout is long enough on a busy machine."""
        self.clock = FakeClock()
        self.invalidations: list[str] = []
        self.moves: list[str] = []
        self.wakeup = asyncio.Event()
        self.trust = RedisTrust(
            monotonic=self.clock.monotonic,
            trust_without_database=HOUR,
            on_invalidated=self.invalidations.append,
        )
        self.trust.request_round = self.wakeup.set
        super().__init__(url, trust=self.trust, on_unreadable=on_unreadable, timeout=timeout)
        self.change_log = change_log or FakeChangeLog()
        self._follower = CacheFollower(
            self.change_log,
            self,
            trust=self.trust,
            clock=self.clock,
            wakeup=self.wakeup,
            on_position_lost=lambda _, __: None,
            count_move=self.moves.append,
        )

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        """Look up as batches do: without a task where that is possible."""
        started: asyncio.Future[Found] = asyncio.get_running_loop().create_future()

        def complete(found: Found) -> None:
            if not started.done():  # else the caller was cancelled
                started.set_result(found)

        found = await started if self.start_many(digests, complete) else None
        if isinstance(found, Exception):
            raise found
        return await super().find_many(digests) if found is None else found

    async def follow(self) -> None:
        """Make one round."""
        self.wakeup.clear()
        await self._follower.follow()

    async def put(self, session: Session) -> Session:
        """Fill the cache with a session that the database has had for long; return what it has."""
        return (await self.put_many([session]))[session.digest]

    async def put_many(self, sessions: Sequence[Session]) -> dict[Digest, Session]:
        """Fill the cache as `put` does, in one round trip."""
        digests = [session.digest for session in sessions]
        try:
            await self.find_many(digests)
        except CacheNotTrusted:
            await self.follow()
            await self.find_many(digests)
        return dict(await self.fill_many({s.digest: self.build_fill(s) for s in sessions}))

    def build_fill(self, session: Session) -> Fill:
        """Return the fill of a session that was read from the database at the present position."""
        return Fill(replace(session, changed_xid=session.changed_xid or 1), self.trust.position)
