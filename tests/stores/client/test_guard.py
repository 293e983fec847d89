"""A guarded store: which outcomes the circuit breaker counts as failures, and what is logged."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest

from sidegate.core.digest import Digest
from sidegate.core.errors import CacheNotTrusted, StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import Fill, Found, OnFound
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.client.circuit_breaker import BreakerState, CircuitBreaker
from sidegate.stores.client.guard import Guard, Guarded, GuardedCache
from tests.contracts.values import build_digest, build_session, build_tombstone
from tests.stores.waiting import wait_until
from tests.support.clock import FakeClock
from tests.support.fakes import FakeBackend
from tests.support.redis_trust import build_mark


def build_fill(session: Session) -> Fill:
    return Fill(session, {0: Seal.begin(build_mark())})


class InvalidatedBackend(FakeBackend):
    """A backend that answers, but refuses its copies while `invalidated` is set."""

    invalidated = False

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        if self.invalidated:
            raise CacheNotTrusted("backend", "invalidated on demand")
        return await super().find_many(digests)


class GuardedBackend:
    """A fake backend, with its guard and its circuit breaker."""

    def __init__(self, *, timeout: float = 5.0) -> None:
        self.clock = FakeClock()
        self.backend = InvalidatedBackend()
        self.breaker = CircuitBreaker(
            failure_threshold=5, probe_interval=0.25, clock=self.clock, jitter=lambda: 0.5
        )
        self.outages = 0
        guard = Guard("backend", timeout=timeout, breaker=self.breaker, on_outage=self.count_outage)
        self.finder = Guarded(self.backend, guard=guard)
        self.cache = GuardedCache(self.backend, guard=guard)

    def count_outage(self) -> None:
        self.outages += 1

    async def find(self) -> None:
        await self.finder.find_many((build_digest(),))

    async def fill(self) -> None:
        session = build_session()
        await self.cache.fill_many({session.digest: build_fill(session)})

    async def restrict(self) -> None:
        await self.cache.restrict_many([build_tombstone()])

    async def fail(self, times: int) -> None:
        self.backend.down = True
        for _ in range(times):
            with pytest.raises(StoreUnavailable):
                await self.find()
        self.backend.down = False

    async def read_untrusted_copies(self) -> None:
        self.backend.invalidated = True
        with pytest.raises(CacheNotTrusted):
            await self.find()
        self.backend.invalidated = False

    async def read_an_unreadable_record(self) -> None:
        digest = build_digest()
        self.backend.unreadable = {digest}
        with pytest.raises(UnreadableRecord):
            await self.finder.find_many((digest,))


Send = Callable[[GuardedBackend], Coroutine[Any, Any, None]]


async def test_five_outages_open_the_breaker() -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    with pytest.raises(StoreUnavailable, match="breaker open"):
        await guarded.find()
    assert len(guarded.backend.lookups) == 5


async def test_each_failure_that_leaves_the_breaker_open_is_an_outage() -> None:
    guarded = GuardedBackend()
    await guarded.fail(4)
    assert guarded.outages == 0
    await guarded.fail(1)
    assert guarded.outages == 1
    guarded.clock.advance(0.25)
    await guarded.fail(1)  # the probe
    assert guarded.outages == 2


@pytest.mark.parametrize("send", [GuardedBackend.fill, GuardedBackend.restrict])
async def test_lookups_and_writes_share_one_breaker(send: Send) -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    with pytest.raises(StoreUnavailable, match="breaker open"):
        await send(guarded)
    assert guarded.backend.sessions == {}


@pytest.mark.parametrize(
    "send", [GuardedBackend.find, GuardedBackend.fill, GuardedBackend.restrict]
)
async def test_successful_probe_closes_the_breaker(
    send: Send,
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
    sent = (guarded.find, guarded.fill, guarded.restrict, guarded.fill, guarded.find)
    for send in sent:
        with pytest.raises(StoreUnavailable):
            await send()
    assert guarded.breaker.state is BreakerState.OPEN


answers_with_an_error = pytest.mark.parametrize(
    "read",
    [GuardedBackend.read_an_unreadable_record, GuardedBackend.read_untrusted_copies],
    ids=["unreadable record", "untrusted copies"],
)


@answers_with_an_error
async def test_errors_of_a_store_that_answers_do_not_open_the_breaker(read: Send) -> None:
    guarded = GuardedBackend()
    for _ in range(20):
        await read(guarded)
    assert guarded.breaker.state is BreakerState.CLOSED


@answers_with_an_error
async def test_error_of_a_store_that_answers_resets_the_failure_count(read: Send) -> None:
    guarded = GuardedBackend()
    for _ in range(3):
        await guarded.fail(4)
        await read(guarded)
    assert guarded.breaker.state is BreakerState.CLOSED


@answers_with_an_error
async def test_probe_with_an_error_of_a_store_that_answers_closes_the_breaker(read: Send) -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    guarded.clock.advance(0.25)
    await read(guarded)
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
    kept = await guarded.cache.fill_many({session.digest: build_fill(session)})
    assert kept == {session.digest: session}
    assert await guarded.cache.restrict_many([])
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


# --- Lookups that begin without a task


class Started:
    """What a lookup that began without a task has called back with."""

    def __init__(self, guarded: GuardedBackend) -> None:
        guarded.backend.starts = True
        self.outcomes: list[Found] = []
        self.has_begun = guarded.cache.start_many((build_digest(),), self.outcomes.append)

    async def outcome(self) -> Found:
        await wait_until(lambda: self.outcomes != [])
        [found] = self.outcomes
        return found


async def test_started_lookup_counts_as_another_does() -> None:
    guarded = GuardedBackend()
    assert await Started(guarded).outcome() == {}
    guarded.backend.down = True
    for _ in range(5):
        assert isinstance(await Started(guarded).outcome(), StoreUnavailable)
    assert guarded.breaker.state is BreakerState.OPEN
    assert guarded.outages == 1
    refused = Started(guarded)
    assert not refused.has_begun
    assert refused.outcomes == []


async def test_started_lookup_is_refused_while_it_might_be_a_probe() -> None:
    guarded = GuardedBackend()
    await guarded.fail(5)
    guarded.clock.advance(1)
    assert not Started(guarded).has_begun
    await guarded.find()
    assert Started(guarded).has_begun


async def test_started_lookup_ends_with_the_timeout_and_its_late_answer_is_dropped() -> None:
    guarded = GuardedBackend(timeout=0.01)
    guarded.backend.unblocked.clear()
    started = Started(guarded)
    outcome = await started.outcome()
    assert isinstance(outcome, StoreUnavailable)
    assert "no answer within 10 ms" in str(outcome)
    guarded.backend.unblocked.set()
    await Started(guarded).outcome()
    assert len(started.outcomes) == 1
    for _ in range(4):  # with the first that makes four in a row, after a success
        guarded.backend.unblocked.clear()
        await Started(guarded).outcome()
    assert guarded.breaker.state is BreakerState.CLOSED


async def test_lookup_that_does_not_begin_leaves_no_timer() -> None:
    guarded = GuardedBackend(timeout=0.001)
    outcomes: list[Found] = []
    assert not guarded.cache.start_many((build_digest(),), outcomes.append)
    await asyncio.sleep(0.01)
    assert outcomes == []
    assert guarded.breaker.state is BreakerState.CLOSED


async def test_untrusted_or_unreadable_answer_of_a_started_lookup_is_an_answer() -> None:
    guarded = GuardedBackend()
    await guarded.fail(4)
    guarded.backend.invalidated = True
    assert isinstance(await Started(guarded).outcome(), CacheNotTrusted)
    guarded.backend.invalidated = False
    await guarded.fail(4)
    assert guarded.breaker.state is BreakerState.CLOSED


class DefectiveBackend(FakeBackend):
    """A backend that fails while it begins a lookup."""

    def start_many(self, _: Sequence[Digest], __: OnFound) -> bool:
        raise RuntimeError("a defect")


async def test_lookup_that_fails_while_it_begins_is_not_called_back_later() -> None:
    breaker = CircuitBreaker(failure_threshold=1, probe_interval=1.0, clock=FakeClock())
    guard = Guard("backend", timeout=0.001, breaker=breaker)
    outcomes: list[Found] = []
    with pytest.raises(RuntimeError):
        GuardedCache(DefectiveBackend(), guard=guard).start_many((build_digest(),), outcomes.append)
    await asyncio.sleep(0.01)
    assert outcomes == []
    assert breaker.state is BreakerState.CLOSED
