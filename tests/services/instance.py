"""An instance as change notifications see it: its memory, its Redis, its change poller."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from sidegate.core.protocols import DurableStore
from sidegate.core.session import Session, SessionRecord
from sidegate.services.change_poller import ChangePoller
from sidegate.services.redelivery import Redelivery
from sidegate.stores.client.redis_trust import RedisTrust
from tests.contracts.values import build_record, build_session
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeBackend


class FakeSubscriber:
    """Applies changes to a memory."""

    def __init__(self, memory: FakeBackend) -> None:
        self._memory = memory

    async def apply(self, changed: Sequence[Session]) -> None:
        for session in changed:
            await self._memory.put(session)

    def on_position_lost(self) -> None:
        self._memory.sessions.clear()


@dataclass
class Instance:
    """An instance with its memory and Redis, on a database."""

    database: DurableStore
    clock: FakeClock = field(default_factory=FakeClock)
    memory: FakeBackend = field(default_factory=FakeBackend)
    redis: FakeBackend = field(default_factory=FakeBackend)
    trust: RedisTrust = field(default_factory=RedisTrust)

    def __post_init__(self) -> None:
        wakeup = asyncio.Event()
        self.redelivery = Redelivery(
            self.database, [self.redis], trust=self.trust, clock=self.clock, wakeup=wakeup
        )
        self.poller = ChangePoller(
            self.database,
            memory=FakeSubscriber(self.memory),
            redelivery=self.redelivery,
            clock=self.clock,
            interval=3600,
            wakeup=wakeup,
        )

    @property
    def trusted_generation(self) -> int | None:
        """The generation under which Redis is trusted, or None if it is not trusted."""
        return self.trust.generation if self.trust.is_trusted else None

    async def revoke_one(self) -> Session:
        """Revoke a session as another instance does, unpublished; return its tombstone."""
        session = build_session()
        await self.database.create(build_record(session))
        tombstone = session.revoked(NOON)
        assert await self.database.replace(SessionRecord(tombstone), expected=session.version)
        return tombstone
