"""What an episode may touch, and how it shows that it really happened."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.faults.deployment import Deployment
from tests.faults.gateway import Upstream
from tests.faults.history import Dark, Forgotten, Hurt, Record, Result, Revoke, now
from tests.faults.load import Load
from tests.faults.rules import Breach
from tests.faults.watch import Counters, counters
from tests.stores.sql.wire import Wire
from tests.support.processes import Server

Episode = Callable[["Stage"], Awaitable[None]]
"""Lets a fault begin, lets it last while the load goes on, and heals it before it returns."""

Sign = Callable[[Counters, Counters], float]
"""What counters before and after say of whether a fault was there: 0 is no."""

_LOOK_UPS: Final = "sidegate_lookup_duration_seconds_count"

# An instance that was hurt is given so long to find its feet before it owes answers in time.
_ON_ITS_FEET = 1.0


@dataclass
class Stage:
    """`factor` is the load's. `scale` makes what need not last as long as it might shorter;
    `minutes` is how long the random mix goes on.

    `absent` collects what a fault should have shown, and did not; `breaches` what was seen of
    promises that no history tells of.
    """

    deployment: Deployment
    load: Load
    record: Record
    random: Random
    factor: float
    scale: float = 1.0
    minutes: float = 2.0
    absent: list[str] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    begun: float = 0.0

    def begins(self) -> None:
        """State that the fault begins now: what an episode did before was preparation."""
        self.begun = now()

    @property
    def redis(self) -> Server:
        return self.deployment.redis

    @property
    def postgres(self) -> Server:
        return self.deployment.postgres

    @property
    def redis_wire(self) -> Wire:
        return self.deployment.redis_wire

    @property
    def postgres_wire(self) -> Wire:
        return self.deployment.postgres_wire

    @property
    def one(self) -> Upstream:
        """The instance that is hurt where only one is."""
        return self.load.gateway.upstreams[0]

    async def wait(self, seconds: float) -> None:
        """Let the load go on for so long."""
        await asyncio.sleep(seconds * self.scale)

    async def counters(self) -> Counters:
        return await counters(self.load.gateway.upstreams)

    @asynccontextmanager
    async def believing(self, when: str) -> AsyncIterator[None]:
        """Let it be a breach (I12) if some instance gets no session from Redis during the block.

        Postgres would serve all the same, and no client notices.
        """
        before = await self.counters()
        yield
        after = await self.counters()
        for upstream in self.load.gateway.upstreams:
            if not hits(upstream.name)(before, after):
                what = f"{upstream.name} got no session from Redis {when}"
                self.breaches.append(Breach("I12", what, now()))

    def expect(self, what: str, *, seen: float | bool) -> None:
        """State what the fault should have shown."""
        if not seen:
            self.absent.append(what)

    @asynccontextmanager
    async def showing(self, what: str, sign: Sign) -> AsyncIterator[None]:
        """Compare the counters before and after the block."""
        before = await self.counters()
        yield
        self.expect(what, seen=sign(before, await self.counters()))

    @asynccontextmanager
    async def hurting(self, *upstreams: Upstream) -> AsyncIterator[None]:
        """Excuse instances from answering in time, while they are hurt themselves."""
        start = now()
        try:
            yield
        finally:
            for upstream in upstreams:
                end = now() + _ON_ITS_FEET
                self.record.note(Hurt(start=start, end=end, instance=upstream.name))

    def forgets(self) -> None:
        """State that Redis loses all it knows, now."""
        self.record.note(Forgotten(start=now(), end=now()))

    @asynccontextmanager
    async def darkness(self) -> AsyncIterator[None]:
        """State that no instance reaches any store."""
        start = now()
        try:
            yield
        finally:
            self.record.note(Dark(start=start, end=now()))

    async def a_revocation(self, *, acknowledged: bool = True) -> None:
        """Return when one was asked for from now on and, if wanted, acknowledged."""
        begun = now()

        def asked() -> bool:
            return any(
                isinstance(entry, Revoke)
                and entry.start >= begun
                and (entry.result is Result.OK or not acknowledged)
                for entry in reversed(self.record.entries[-2000:])
            )

        async with asyncio.timeout(20):
            while not asked():  # noqa: ASYNC110  # the load does it in its own time
                await asyncio.sleep(0.02)


def failed(store: str) -> Sign:
    """Look-ups that a store could not answer."""
    return lambda before, after: after.since(before, _LOOK_UPS, store=store, outcome="error")


def answered(store: str) -> Sign:
    """Look-ups that a store has answered. One that failed has perhaps never left the process."""
    return lambda before, after: sum(
        after.since(before, _LOOK_UPS, store=store, outcome=outcome) for outcome in ("hit", "miss")
    )


def hits(instance: str) -> Sign:
    """Look-ups of one instance that Redis has answered with a session: it is believed there."""
    return lambda before, after: after.only(instance).since(
        before, _LOOK_UPS, store="redis", outcome="hit"
    )


async def apart(work: Callable[[], object]) -> None:
    """Do in a thread what would keep the load from going on."""
    await asyncio.to_thread(work)
