"""What an episode can act on, and how it verifies that its fault had an effect."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.faults.deployment import Deployment
from tests.faults.gateway import Upstream
from tests.faults.history import (
    HistoryRecorder,
    InstanceFault,
    RedisDataLoss,
    Result,
    Revoke,
    StoresDown,
    now,
)
from tests.faults.load import Load
from tests.faults.resources import Counters, fetch_counters
from tests.faults.rules import Violation
from tests.stores.sql.tcp_proxy import TcpProxy
from tests.support.processes import Server

Episode = Callable[["FaultContext"], Awaitable[None]]
"""Injects a fault, keeps it up while the load runs, and repairs it before it returns."""

CounterChange = Callable[[Counters, Counters], float]
"""Returns by how much a counter grew between two readings; 0: the fault had no effect."""

_LOOKUPS: Final = "sidegate_lookup_duration_seconds_count"

# Seconds after the repair of an instance in which it need not answer in time.
_RECOVERY_ALLOWANCE = 1.0


@dataclass
class FaultContext:
    """The deployment, the load and the history, for episodes.

    `time_scale` shortens the durations of faults; `minutes` is the duration of the random mix.
    `missing_effects` collects expected signs of a fault that were not observed; `violations` those
    that cannot be derived from a history.
    """

    deployment: Deployment
    load: Load
    recorder: HistoryRecorder
    random: Random
    load_factor: float
    time_scale: float = 1.0
    minutes: float = 2.0
    missing_effects: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    started_at: float = 0.0

    def mark_started(self) -> None:
        """Record the start of the fault: anything before it was preparation."""
        self.started_at = now()

    @property
    def redis(self) -> Server:
        return self.deployment.redis

    @property
    def postgres(self) -> Server:
        return self.deployment.postgres

    @property
    def redis_proxy(self) -> TcpProxy:
        return self.deployment.redis_proxy

    @property
    def postgres_proxy(self) -> TcpProxy:
        return self.deployment.postgres_proxy

    @property
    def target(self) -> Upstream:
        """The instance that faults of a single instance are injected into."""
        return self.load.gateway.upstreams[0]

    @property
    def other(self) -> Upstream:
        """The instance without the fault of a single instance."""
        return self.load.gateway.upstreams[1]

    async def wait(self, seconds: float) -> None:
        """Keep the load running for so many scaled seconds."""
        await asyncio.sleep(seconds * self.time_scale)

    async def fetch_counters(self) -> Counters:
        return await fetch_counters(self.load.gateway.upstreams)

    @asynccontextmanager
    async def expect_redis_hits(self, when: str) -> AsyncIterator[None]:
        """Report a violation (I12) if an instance has no Redis hit during the block.

        Clients do not notice that, because Postgres serves the sessions as well.
        """
        before = await self.fetch_counters()
        yield
        after = await self.fetch_counters()
        for upstream in self.load.gateway.upstreams:
            if not redis_hits(upstream.name)(before, after):
                message = f"{upstream.name} had no Redis hit {when}"
                self.violations.append(Violation("I12", message, now()))

    def expect(self, problem: str, *, observed: float | bool) -> None:
        """Report `problem` as a missing effect of the fault if nothing was observed."""
        if not observed:
            self.missing_effects.append(problem)

    @asynccontextmanager
    async def expect_change(self, problem: str, change: CounterChange) -> AsyncIterator[None]:
        """Report `problem` if the counter does not grow during the block."""
        before = await self.fetch_counters()
        yield
        self.expect(problem, observed=change(before, await self.fetch_counters()))

    @asynccontextmanager
    async def excuse_instance(self, *upstreams: Upstream) -> AsyncIterator[None]:
        """Exempt instances from the deadline (I9) while they are faulty themselves."""
        start = now()
        try:
            yield
        finally:
            for upstream in upstreams:
                end = now() + _RECOVERY_ALLOWANCE
                self.recorder.add(InstanceFault(start=start, end=end, instance=upstream.name))

    def record_data_loss(self) -> None:
        """Record that Redis loses its data now."""
        self.recorder.add(RedisDataLoss(start=now(), end=now()))

    @asynccontextmanager
    async def record_stores_down(self) -> AsyncIterator[None]:
        """Record that no instance reaches a store during the block."""
        start = now()
        try:
            yield
        finally:
            self.recorder.add(StoresDown(start=start, end=now()))

    async def wait_for_revocation(self, *, acknowledged: bool = True) -> None:
        """Return when a revocation was requested from now on and, if wanted, acknowledged."""
        started_at = now()

        def was_requested() -> bool:
            return any(
                isinstance(entry, Revoke)
                and entry.start >= started_at
                and (entry.result is Result.OK or not acknowledged)
                for entry in reversed(self.recorder.entries[-2000:])
            )

        async with asyncio.timeout(20):
            while not was_requested():  # noqa: ASYNC110  # the load sets no event
                await asyncio.sleep(0.02)


def failed_lookups(store: str) -> CounterChange:
    """Count the lookups that failed at a store."""
    return lambda before, after: after.increase(before, _LOOKUPS, store=store, outcome="error")


def answered_lookups(store: str) -> CounterChange:
    """Count the lookups that a store answered. A failed one may not have reached it."""
    return lambda before, after: sum(
        after.increase(before, _LOOKUPS, store=store, outcome=outcome)
        for outcome in ("hit", "miss")
    )


def redis_hits(instance: str) -> CounterChange:
    """Count the lookups of one instance that hit in Redis, which it then trusts."""
    return lambda before, after: after.of_instance(instance).increase(
        before, _LOOKUPS, store="redis", outcome="hit"
    )


async def run_in_thread(work: Callable[[], object]) -> None:
    """Run in a thread what would block the load."""
    await asyncio.to_thread(work)
