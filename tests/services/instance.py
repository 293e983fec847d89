"""An instance as its cache follower and its change poller see it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from sidegate.core.change_log import ChangedSession
from sidegate.core.errors import PositionLost
from sidegate.core.protocols import ChangeLog, SealedCache
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.services.cache_follower import CacheFollower
from sidegate.services.change_poller import ChangePoller
from sidegate.services.publisher import put_changes
from sidegate.stores.client.redis_trust import RedisTrust
from tests.support.clock import FakeClock
from tests.support.fakes import FakeMemory

HOUR = 3600.0


class FollowingInstance:
    """An instance that follows a remote cache, and what it has counted and reported."""

    def __init__(
        self,
        change_log: ChangeLog,
        cache: SealedCache,
        *,
        clock: FakeClock | None = None,
        trust: RedisTrust | None = None,
        pages_timeout: float = 5.0,
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.clock = clock or FakeClock()
        self.wakeup = asyncio.Event()
        self.invalidations: list[str] = []
        self.moves: Counter[str] = Counter()
        self.lost: list[tuple[PositionLost, set[str]]] = []
        self.trust = trust or RedisTrust(
            monotonic=self.clock.monotonic,
            trust_without_database=HOUR,
            on_invalidated=self.invalidations.append,
        )
        self.trust.request_round = self.wakeup.set
        self.follower = CacheFollower(
            change_log,
            cache,
            trust=self.trust,
            clock=self.clock,
            wakeup=self.wakeup,
            on_position_lost=self._on_position_lost,
            count_move=lambda change: self.moves.update([change]),
            jitter=jitter,
            pages_timeout=pages_timeout,
        )

    def trusts(self, seal: Seal | None) -> bool:
        """Return whether copies that were read under this seal would be used."""
        return seal is not None and self.trust.approve(0, seal.encode())

    def _on_position_lost(self, lost: PositionLost, namespaces: Collection[str]) -> None:
        self.lost.append((lost, set(namespaces)))


class PollingInstance:
    """An instance that polls for changes, and what its memory was told."""

    def __init__(self, change_log: ChangeLog, *, pages_timeout: float = 5.0) -> None:
        self.clock = FakeClock()
        self.memory = FakeMemory()
        self.overflows = 0
        self.lost: list[PositionLost] = []
        self.unblocked = asyncio.Event()  # while cleared, memory takes no changes
        self.unblocked.set()
        self.is_applying = False
        self.poller = ChangePoller(
            change_log,
            memory=self,
            clock=self.clock,
            interval=HOUR,
            pages_timeout=pages_timeout,
        )

    def copy_of(self, session: Session) -> Session | None:
        return self.memory.sessions.get(session.digest)

    async def apply(self, changes: Sequence[ChangedSession], *, age: float) -> None:
        assert age >= 0
        self.is_applying = True
        await self.unblocked.wait()
        await put_changes(changes, self.memory)

    def on_overflow(self) -> None:
        self.overflows += 1

    def on_position_lost(self, lost: PositionLost) -> None:
        self.lost.append(lost)
