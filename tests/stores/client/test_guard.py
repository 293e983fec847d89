"""A guarded store: which outcomes the circuit breaker counts as failures, and what is logged."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.stores.client.circuit_breaker import BreakerState, CircuitBreaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedCache
from tests.contracts.values import build_digest, build_session
from tests.stores.waiting import wait_until
from tests.support.clock import FakeClock
from tests.support.fakes import FakeBackend


class GuardedBackend:
    """A fake backend, with its guard and its circuit breaker."""

    def __init__(self, *, timeout: float = 5.0) -> None:
        self.clock = FakeClock()
        self.backend = FakeBackend()
        self.breaker = CircuitBreaker(
            failure_threshold=5, probe_interval=0.25, clock=self.clock, jitter=lambda: 0.5
        )
        guard = Guard("backend", timeout=timeout, breaker=self.breaker)
        self.finder = Guarded(self.backend, guard=guard)
        self.cache = GuardedCache(self.backend, guard=guard)

    async def find(self) -> None:
        await self.finder.find_many((build_digest(),))

    async def put(self) -> None:
        session = build_session()
        await self.cache.put_many({session.digest: session})

    async def fail(self, times: int) -> None:
        self.backend.down = True
        for _ in range(times):
            with pytest.raises(StoreUnavailable):
                await self.find()
        self.backend.down = False

    async def read_an_unreadable_record(self) -> None:
        digest = build_digest()
        self.backend.unreadable = {digest}
        with pytest.raises(UnreadableRecord):
            await self.finder.find_many((digest,))


async def test_five_outages_open_the_breaker() -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    with pytest.raises(StoreUnavailable, match="breaker open"):
        await guarded.find()
    assert len(guarded.backend.lookups) == 5


async def test_lookups_and_puts_share_one_breaker() -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    with pytest.raises(StoreUnavailable, match="breaker open"):
        await guarded.put()
    assert guarded.backend.sessions == {}


@pytest.mark.parametrize("send", [GuardedBackend.find, GuardedBackend.put])
async def test_successful_probe_closes_the_breaker(
    send: Callable[[GuardedBackend], "asyncio.Future[None]"],
) -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    guarded.clock.advance(0.25)
    await send(guarded)
    assert guarded.breaker.state is BreakerState.CLOSED
    await guarded.find()


async def test_timeout_raises_unavailable() -> None:
    guarded = GuardedBackend(timeout=0.005)
    guarded.backend.unblocked.clear()
    with pytest.raises(StoreUnavailable, match="no answer within 5 ms") as outage:
        await guarded.find()
    assert outage.value.store == "backend"


async def test_timeouts_open_the_breaker() -> None:
    guarded = GuardedBackend(timeout=0.001)
    guarded.backend.unblocked.clear()
    for send in (guarded.find, guarded.put, guarded.find, guarded.put, guarded.find):
        with pytest.raises(StoreUnavailable):
            await send()
    assert guarded.breaker.state is BreakerState.OPEN


async def test_unreadable_records_do_not_open_the_breaker() -> None:
    guarded = GuardedBackend()
    for _ in range(20):
        await guarded.read_an_unreadable_record()
    assert guarded.breaker.state is BreakerState.CLOSED


async def test_unreadable_record_resets_the_failure_count() -> None:
    guarded = GuardedBackend()
    for _ in range(3):
        await guarded.fail(4)
        await guarded.read_an_unreadable_record()
    assert guarded.breaker.state is BreakerState.CLOSED


async def test_probe_with_an_unreadable_record_closes_the_breaker() -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    guarded.clock.advance(0.25)
    await guarded.read_an_unreadable_record()
    assert guarded.breaker.state is BreakerState.CLOSED


async def test_cancelled_lookups_do_not_open_the_breaker() -> None:
    guarded = GuardedBackend()
    guarded.backend.unblocked.clear()
    for _ in range(20):
        guarded.backend.lookups.clear()
        caller = asyncio.create_task(guarded.find())
        await wait_until(lambda: bool(guarded.backend.lookups))
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
    assert guarded.breaker.state is BreakerState.CLOSED


async def test_next_probe_is_sent_after_a_cancelled_one() -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    guarded.clock.advance(0.25)
    guarded.backend.unblocked.clear()
    probe = asyncio.create_task(guarded.find())
    await wait_until(lambda: len(guarded.backend.lookups) == 6)
    probe.cancel()
    await asyncio.wait([probe])
    guarded.backend.unblocked.set()
    with pytest.raises(StoreUnavailable, match="breaker open"):
        await guarded.find()
    guarded.clock.advance(0.25)
    await guarded.find()
    assert guarded.breaker.state is BreakerState.CLOSED


async def test_results_are_passed_through_unchanged() -> None:
    guarded, session = GuardedBackend(), build_session()
    kept = await guarded.cache.put_many({session.digest: session})
    assert kept == {session.digest: session}
    assert await guarded.finder.find_many((session.digest, build_digest())) == {
        session.digest: session
    }


async def test_outage_is_logged_once_when_it_starts_and_once_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sidegate")
    guarded = GuardedBackend()
    await guarded.fail(5)
    for _ in range(10):
        guarded.clock.advance(0.25)
        await guarded.fail(2)  # the probe, and a request that is not sent
    guarded.clock.advance(0.25)
    await guarded.find()
    await guarded.fail(4)
    await guarded.find()
    started, ended = [vars(record) for record in caplog.records]
    assert (started["msg"], started["store"], started["reason"]) == (
        "store unavailable",
        "backend",
        "down on demand",
    )
    assert (ended["msg"], ended["store"], ended["outage_seconds"]) == (
        "store available",
        "backend",
        2.8,
    )
