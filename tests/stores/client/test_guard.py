"""A store behind its guard: what counts as its failure, and what does not."""

import asyncio
from collections.abc import Callable

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.stores.client.circuit_breaker import BreakerState, CircuitBreaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedCache
from tests.contracts.values import a_digest, a_session
from tests.stores.waiting import until
from tests.support.clock import FakeClock
from tests.support.fakes import Shelf


class Rig:
    """A shelf, its guard and its breaker."""

    def __init__(self, *, seconds: float = 5.0) -> None:
        self.clock = FakeClock()
        self.shelf = Shelf()
        self.breaker = CircuitBreaker(
            failures=5, probe_every=0.25, clock=self.clock, jitter=lambda: 0.5
        )
        guard = Guard("shelf", seconds=seconds, breaker=self.breaker)
        self.finder = Guarded(self.shelf, guard=guard)
        self.hot = GuardedCache(self.shelf, guard=guard)

    async def find(self) -> None:
        await self.finder.find_many((a_digest(),))

    async def put(self) -> None:
        session = a_session()
        await self.hot.put_many({session.digest: session})

    async def fail(self, times: int) -> None:
        self.shelf.down = True
        for _ in range(times):
            with pytest.raises(StoreUnavailable):
                await self.find()
        self.shelf.down = False

    async def meet_an_unreadable_record(self) -> None:
        digest = a_digest()
        self.shelf.unreadable = {digest}
        with pytest.raises(UnreadableRecord):
            await self.finder.find_many((digest,))


async def test_after_five_outages_the_store_is_left_alone() -> None:
    rig = Rig()
    await rig.fail(5)
    with pytest.raises(StoreUnavailable, match="breaker open"):
        await rig.find()
    assert len(rig.shelf.asked) == 5


async def test_finding_and_putting_share_one_breaker() -> None:
    rig = Rig()
    await rig.fail(5)
    with pytest.raises(StoreUnavailable, match="breaker open"):
        await rig.put()
    assert rig.shelf.sessions == {}


@pytest.mark.parametrize("verb", [Rig.find, Rig.put])
async def test_the_first_to_succeed_when_a_probe_is_due_closes_the_breaker(
    verb: Callable[[Rig], "asyncio.Future[None]"],
) -> None:
    rig = Rig()
    await rig.fail(5)
    rig.clock.advance(0.25)
    await verb(rig)
    assert rig.breaker.state is BreakerState.CLOSED
    await rig.find()


async def test_a_store_that_answers_too_late_could_not_answer() -> None:
    rig = Rig(seconds=0.005)
    rig.shelf.open.clear()
    with pytest.raises(StoreUnavailable, match="no answer within 5 ms") as outage:
        await rig.find()
    assert outage.value.store == "shelf"


async def test_late_answers_open_the_breaker() -> None:
    rig = Rig(seconds=0.001)
    rig.shelf.open.clear()
    for verb in (rig.find, rig.put, rig.find, rig.put, rig.find):
        with pytest.raises(StoreUnavailable):
            await verb()
    assert rig.breaker.state is BreakerState.OPEN


async def test_an_unreadable_record_is_no_outage() -> None:
    rig = Rig()
    for _ in range(20):
        await rig.meet_an_unreadable_record()
    assert rig.breaker.state is BreakerState.CLOSED


async def test_an_unreadable_record_is_an_answer_that_ends_a_row_of_failures() -> None:
    rig = Rig()
    for _ in range(3):
        await rig.fail(4)
        await rig.meet_an_unreadable_record()
    assert rig.breaker.state is BreakerState.CLOSED


async def test_a_probe_that_meets_an_unreadable_record_closes_the_breaker() -> None:
    rig = Rig()
    await rig.fail(5)
    rig.clock.advance(0.25)
    await rig.meet_an_unreadable_record()
    assert rig.breaker.state is BreakerState.CLOSED


async def test_a_caller_that_leaves_says_nothing_about_the_store() -> None:
    rig = Rig()
    rig.shelf.open.clear()
    for _ in range(20):
        rig.shelf.asked.clear()
        caller = asyncio.create_task(rig.find())
        await until(lambda: bool(rig.shelf.asked))
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
    assert rig.breaker.state is BreakerState.CLOSED


async def test_a_cancelled_probe_blocks_nobody() -> None:
    rig = Rig()
    await rig.fail(5)
    rig.clock.advance(0.25)
    rig.shelf.open.clear()
    probe = asyncio.create_task(rig.find())
    await until(lambda: len(rig.shelf.asked) == 6)
    probe.cancel()
    await asyncio.wait([probe])
    rig.shelf.open.set()
    with pytest.raises(StoreUnavailable, match="breaker open"):
        await rig.find()
    rig.clock.advance(0.25)
    await rig.find()
    assert rig.breaker.state is BreakerState.CLOSED


async def test_what_is_found_and_put_passes_unchanged() -> None:
    rig, session = Rig(), a_session()
    kept = await rig.hot.put_many({session.digest: session})
    assert kept == {session.digest: session}
    assert await rig.finder.find_many((session.digest, a_digest())) == {session.digest: session}
