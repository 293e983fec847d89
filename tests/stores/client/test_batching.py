"""The lookups and fills of one tick are one round trip, with a result for each caller."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import pytest

from sidegate.core.change_log import ChangedSession, Mark
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import Fill, OnFound
from sidegate.core.seal import Seal
from sidegate.core.session import Session
from sidegate.stores.client.batching import Batched, BatchedCache
from tests.contracts.values import (
    build_digest,
    build_rotated_session,
    build_session,
    build_tombstone,
)
from tests.stores.waiting import cancel_all, no_leaks, wait_until
from tests.support.clock import NOON
from tests.support.fakes import FakeBackend
from tests.support.redis_trust import build_mark

SECOND: Final = timedelta(seconds=1)


async def test_lookups_of_one_tick_are_one_round_trip() -> None:
    sessions = [build_session() for _ in range(20)]
    backend = FakeBackend(*sessions)
    batched = Batched(backend)
    digests = [session.digest for session in sessions]
    assert await asyncio.gather(*map(batched.find, digests)) == sessions
    assert backend.lookups == [tuple(digests)]
    assert batched.round_trips() == 1


async def test_digest_looked_up_twice_in_a_tick_is_sent_once() -> None:
    session = build_session()
    backend = FakeBackend(session)
    batched = Batched(backend)
    assert await asyncio.gather(*(batched.find(session.digest) for _ in range(3))) == [session] * 3
    assert backend.lookups == [(session.digest,)]


async def test_lookup_in_the_next_tick_does_not_wait_for_the_first_batch() -> None:
    first, second = build_digest(), build_digest()
    backend = FakeBackend()
    backend.unblocked.clear()
    batched = Batched(backend)
    caller = asyncio.create_task(batched.find(first))
    await wait_until(lambda: backend.lookups == [(first,)])
    other = asyncio.create_task(batched.find(second))
    await wait_until(lambda: backend.lookups == [(first,), (second,)])
    backend.unblocked.set()
    assert [await caller, await other] == [None, None]


async def test_more_lookups_than_max_batch_are_split() -> None:
    sessions = [build_session() for _ in range(10)]
    backend = FakeBackend(*sessions)
    batched = Batched(backend, max_batch=4)
    found = await asyncio.gather(*(batched.find(session.digest) for session in sessions))
    assert found == sessions
    assert [len(batch) for batch in backend.lookups] == [4, 4, 2]


async def test_unreadable_record_fails_only_its_own_digest() -> None:
    good, bad = [build_session() for _ in range(5)], build_session()
    missing = build_digest()
    backend = FakeBackend(*good, bad)
    backend.unreadable = {bad.digest}
    batched = Batched(backend)
    digests = [*(session.digest for session in good), bad.digest, missing]
    async with no_leaks():
        results = await asyncio.gather(*map(batched.find, digests), return_exceptions=True)
    assert results[:5] == good
    assert isinstance(results[5], UnreadableRecord)
    assert results[6] is None


async def test_single_unreadable_record_is_looked_up_once() -> None:
    bad = build_session()
    backend = FakeBackend(bad)
    backend.unreadable = {bad.digest}
    with pytest.raises(UnreadableRecord):
        await Batched(backend).find(bad.digest)
    assert len(backend.lookups) == 1


async def test_unreadable_record_is_found_by_bisection() -> None:
    sessions = [build_session() for _ in range(128)]
    backend = FakeBackend(*sessions)
    backend.unreadable = {sessions[77].digest}
    batched = Batched(backend)
    async with no_leaks():
        results = await asyncio.gather(
            *(batched.find(session.digest) for session in sessions), return_exceptions=True
        )
    assert isinstance(results[77], UnreadableRecord)
    assert [*results[:77], *results[78:]] == [*sessions[:77], *sessions[78:]]
    assert len(backend.lookups) == 1 + 2 * 7


async def test_rejected_lookup_is_reported() -> None:
    rejected: list[None] = []
    batched = Batched(FakeBackend(), max_outstanding=2, on_rejected=lambda: rejected.append(None))
    results = await asyncio.gather(
        *(batched.find(build_digest()) for _ in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results[2:]] == [StoreUnavailable] * 3
    assert len(rejected) == 3


async def test_outage_during_bisection_fails_the_remaining_digests() -> None:
    class GoesDown(FakeBackend):
        async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
            self.down = len(self.lookups) > 3
            return await super().find_many(digests)

    sessions = [build_session() for _ in range(4)]
    backend = GoesDown(*sessions)
    backend.unreadable = {sessions[0].digest}
    batched = Batched(backend)
    async with no_leaks():
        results = await asyncio.gather(
            *(batched.find(session.digest) for session in sessions), return_exceptions=True
        )
    assert isinstance(results[0], UnreadableRecord)
    assert results[1] == sessions[1]
    assert all(isinstance(result, StoreUnavailable) for result in results[2:])


async def test_outage_fails_every_lookup_of_the_batch() -> None:
    backend = FakeBackend()
    backend.down = True
    batched = Batched(backend)
    async with no_leaks():
        results = await asyncio.gather(
            *(batched.find(build_digest()) for _ in range(9)), return_exceptions=True
        )
    assert [type(result) for result in results] == [StoreUnavailable] * 9


async def test_any_backend_error_is_raised_to_every_caller() -> None:
    class Broken(FakeBackend):
        async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
            raise ZeroDivisionError(len(digests))

    batched = Batched(Broken())
    async with no_leaks():
        results = await asyncio.gather(
            *(batched.find(build_digest()) for _ in range(3)), return_exceptions=True
        )
    assert [type(result) for result in results] == [ZeroDivisionError] * 3


async def test_error_does_not_affect_the_next_batch() -> None:
    session = build_session()
    backend = FakeBackend(session)
    batched = Batched(backend)
    backend.down = True
    with pytest.raises(StoreUnavailable):
        await batched.find(session.digest)
    backend.down = False
    assert await batched.find(session.digest) == session


@pytest.mark.parametrize("down", [False, True])
async def test_batch_without_callers_reports_nothing(down: bool) -> None:
    session = build_session()
    backend = FakeBackend(session)
    backend.down = down
    backend.unblocked.clear()
    batched = Batched(backend)
    async with no_leaks():
        callers: list[asyncio.Task[Any]] = [
            asyncio.create_task(batched.find(session.digest)) for _ in range(5)
        ]
        await wait_until(lambda: bool(backend.lookups))
        await cancel_all(callers)
        backend.unblocked.set()
    assert backend.lookups == [(session.digest,)]


async def test_cancelled_first_caller_does_not_cancel_the_batch() -> None:
    session = build_session()
    backend = FakeBackend(session)
    batched = Batched(backend)
    first, second = (asyncio.create_task(batched.find(session.digest)) for _ in range(2))
    asyncio.get_running_loop().call_soon(first.cancel)
    assert await second == session


async def test_cancelled_batch_cancels_its_callers() -> None:
    backend = FakeBackend()
    backend.unblocked.clear()
    batched = Batched(backend)
    callers = [asyncio.create_task(batched.find(build_digest())) for _ in range(3)]
    await wait_until(lambda: bool(backend.lookups))
    [batch] = asyncio.all_tasks() - {*callers, asyncio.current_task()}
    async with no_leaks():
        batch.cancel()
        await asyncio.wait_for(asyncio.wait(callers), 5)
    assert all(caller.cancelled() for caller in callers)


def test_batch_cancelled_by_loop_shutdown_reports_nothing() -> None:
    errors: list[object] = []

    async def leave_in_flight() -> list[asyncio.Task[Session | None]]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        backend = FakeBackend()
        backend.unblocked.clear()
        batched = Batched(backend)
        callers = [asyncio.create_task(batched.find(build_digest())) for _ in range(3)]
        await wait_until(lambda: bool(backend.lookups))
        return callers

    callers = asyncio.run(leave_in_flight())
    assert all(caller.cancelled() for caller in callers)
    assert errors == []


# --- Fills and restrictions


class CountingBackend(FakeBackend):
    """A backend that records how many sessions were written in each batch."""

    def __init__(self, *sessions: Session) -> None:
        super().__init__(*sessions)
        self.batch_sizes: list[int] = []

    async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
        self.batch_sizes.append(len(fills))
        return await super().fill_many(fills)

    async def restrict_many(self, copies: Sequence[Session]) -> bool:
        self.batch_sizes.append(len(copies))
        return await super().restrict_many(copies)


def build_fill(session: Session, *, mark: Mark | None = None) -> Fill:
    return Fill(session, {0: Seal.begin(mark or build_mark())})


async def fill_all(cache: BatchedCache, sessions: Iterable[Session]) -> list[Session]:
    """Fill with all sessions in one tick."""
    return await asyncio.gather(*(cache.fill(build_fill(session)) for session in sessions))


async def test_fills_of_one_tick_are_one_round_trip() -> None:
    sessions, backend = [build_session() for _ in range(20)], CountingBackend()
    assert await fill_all(BatchedCache(backend), sessions) == sessions
    assert backend.batch_sizes == [20]
    assert list(backend.sessions.values()) == sessions


async def test_each_fill_returns_the_session_kept_under_its_digest() -> None:
    session, other = build_session(), build_session()
    tombstone = session.revoked(NOON)
    cache = BatchedCache(CountingBackend(tombstone))
    assert await fill_all(cache, (other, session)) == [other, tombstone]


@pytest.mark.parametrize("tombstone_first", [True, False])
async def test_fresher_of_two_fills_of_one_digest_is_sent(tombstone_first: bool) -> None:
    session = build_session()
    tombstone = session.revoked(NOON)
    backend = CountingBackend()
    copies = [tombstone, session] if tombstone_first else [session, tombstone]
    assert await fill_all(BatchedCache(backend), copies) == [tombstone, tombstone]
    assert backend.sessions == {session.digest: tombstone}


async def test_merged_fill_keeps_the_position_that_its_session_was_read_at() -> None:
    sent: list[Fill] = []

    class Recording(FakeBackend):
        async def fill_many(self, fills: Mapping[Digest, Fill]) -> Mapping[Digest, Session]:
            sent.extend(fills.values())
            return await super().fill_many(fills)

    session = build_session()
    before, after = build_fill(session), build_fill(session.touched(NOON + SECOND))
    cache = BatchedCache(Recording())
    await asyncio.gather(cache.fill(after), cache.fill(before))
    assert sent == [after]


async def test_more_fills_than_max_write_batch_are_split() -> None:
    backend = CountingBackend()
    await fill_all(BatchedCache(backend, max_write_batch=4), [build_session() for _ in range(10)])
    assert backend.batch_sizes == [4, 4, 2]


async def test_outage_fails_every_fill_of_the_batch() -> None:
    backend = CountingBackend()
    backend.down = True
    cache = BatchedCache(backend)
    async with no_leaks():
        results = await asyncio.gather(
            *(cache.fill(build_fill(build_session())) for _ in range(3)), return_exceptions=True
        )
    assert [type(result) for result in results] == [StoreUnavailable] * 3


async def test_restrictions_of_all_copies_are_split_into_batches() -> None:
    backend = CountingBackend()
    tombstones = [build_rotated_session().revoked(NOON) for _ in range(5)]
    cache = BatchedCache(backend, max_write_batch=4)
    assert await cache.restrict([ChangedSession(tombstone) for tombstone in tombstones])
    assert backend.batch_sizes == [4, 4, 2]
    assert set(backend.sessions) == {copy.digest for each in tombstones for copy in each.copies()}


async def test_restriction_is_refused_if_one_batch_is_but_all_are_sent() -> None:
    class RefusesFirst(CountingBackend):
        async def restrict_many(self, copies: Sequence[Session]) -> bool:
            return await super().restrict_many(copies) and len(self.batch_sizes) > 1

    backend = RefusesFirst()
    tombstones = [build_tombstone() for _ in range(6)]
    cache = BatchedCache(backend, max_write_batch=4)
    assert not await cache.restrict([ChangedSession(tombstone) for tombstone in tombstones])
    assert backend.batch_sizes == [4, 2]
    assert len(backend.sessions) == 6


# --- The bulkhead


async def test_slow_batch_does_not_delay_the_next() -> None:
    first, second = build_session(), build_session()
    backend = FakeBackend(first, second)
    backend.unblocked.clear()
    batched = Batched(backend, max_in_flight=1, slow_after=0.001)
    async with no_leaks():
        first_caller = asyncio.create_task(batched.find(first.digest))
        await wait_until(lambda: len(backend.lookups) == 1)
        second_caller = asyncio.create_task(batched.find(second.digest))
        await wait_until(lambda: len(backend.lookups) == 2)
        backend.unblocked.set()
        assert [await first_caller, await second_caller] == [first, second]


async def test_cache_lookups_accumulate_while_two_batches_are_in_flight() -> None:
    sessions = [build_session() for _ in range(9)]
    backend = FakeBackend(*sessions)
    backend.unblocked.clear()
    cache = BatchedCache(backend)
    found: dict[Digest, object] = {}
    for session in sessions:
        cache.submit(session.digest, found.__setitem__)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    backend.unblocked.set()

    await wait_until(lambda: len(found) == len(sessions))
    assert found == {session.digest: session for session in sessions}
    assert list(map(len, backend.lookups[:2])) == [1, 1]
    assert len(backend.lookups) < 9


async def test_lookups_accumulate_while_max_in_flight_is_reached() -> None:
    sessions = [build_session() for _ in range(12)]
    backend = FakeBackend(*sessions)
    backend.unblocked.clear()
    batched = Batched(backend, max_in_flight=2)
    callers = []
    for session in sessions:  # each in its own tick
        callers.append(asyncio.create_task(batched.find(session.digest)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await wait_until(lambda: len(backend.lookups) == 2)
    backend.unblocked.set()
    assert await asyncio.gather(*callers) == sessions
    assert [len(batch) for batch in backend.lookups] == [1, 1, 10]


async def test_batch_cancelled_before_it_starts_cancels_its_callers() -> None:
    caller = asyncio.ensure_future(Batched(FakeBackend()).find(build_digest()))
    await asyncio.sleep(0)  # it submits its digest
    await asyncio.sleep(0)  # and the batch is created, but has not started

    (batch,) = asyncio.all_tasks() - {asyncio.current_task(), caller}
    batch.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_lookup_beyond_max_outstanding_raises_unavailable_at_once() -> None:
    backend = FakeBackend()
    backend.unblocked.clear()
    batched = Batched(backend, store="postgres", max_batch=2, max_in_flight=1, max_outstanding=5)
    waiting = [asyncio.create_task(batched.find(build_digest())) for _ in range(5)]
    await wait_until(lambda: bool(backend.lookups))
    with pytest.raises(StoreUnavailable) as outage:
        await batched.find(build_digest())
    assert outage.value.store == "postgres"
    backend.unblocked.set()
    assert await asyncio.gather(*waiting) == [None] * 5
    assert await batched.find(build_digest()) is None  # below the limit again


async def test_waiting_digest_counts_once_for_max_outstanding() -> None:
    session = build_session()
    backend = FakeBackend(session)
    backend.unblocked.clear()
    batched = Batched(backend, max_outstanding=1)
    callers = [asyncio.create_task(batched.find(session.digest)) for _ in range(3)]
    await wait_until(lambda: bool(backend.lookups))
    backend.unblocked.set()
    assert await asyncio.gather(*callers) == [session] * 3


async def test_failed_batch_lets_the_next_one_start() -> None:
    backend = FakeBackend()
    backend.unblocked.clear()
    batched = Batched(backend, max_batch=1, max_in_flight=1)
    first, second = (asyncio.create_task(batched.find(build_digest())) for _ in range(2))
    await wait_until(lambda: bool(backend.lookups))
    backend.down = True
    backend.unblocked.set()
    async with no_leaks():
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 2
    assert len(backend.lookups) == 2


# --- Batches that begin without a task


async def test_batches_begin_without_a_task_and_the_next_waits_for_them() -> None:
    session = build_session()
    backend = FakeBackend(session)
    backend.starts = True
    backend.unblocked.clear()
    cache = BatchedCache(backend)
    others = [build_digest() for _ in range(3)]
    first = [asyncio.create_task(cache.find(session.digest))]
    await wait_until(lambda: len(backend.lookups) == 1)
    second = asyncio.create_task(cache.find(others[0]))
    await wait_until(lambda: len(backend.lookups) == 2)
    third = [asyncio.create_task(cache.find(digest)) for digest in others[1:]]
    await asyncio.sleep(0)
    backend.unblocked.set()
    assert await asyncio.gather(*first, second, *third) == [session, None, None, None]
    assert len(backend.lookups) == 3


class InconclusiveBackend(FakeBackend):
    """A backend whose lookups begin, and then have to be repeated."""

    def start_many(self, _: Sequence[Digest], on_found: OnFound) -> bool:
        asyncio.get_running_loop().call_soon(on_found, None)
        return True


async def test_batch_that_has_to_be_repeated_is_awaited() -> None:
    session = build_session()
    backend = InconclusiveBackend(session)
    cache = BatchedCache(backend)
    assert await cache.find(session.digest) == session
    assert backend.lookups == [(session.digest,)]
    assert cache.round_trips() == 1


class DefectiveBackend(FakeBackend):
    """A backend that cannot begin a lookup at all."""

    def start_many(self, _: Sequence[Digest], __: OnFound) -> bool:
        raise RuntimeError("a defect")


async def test_defect_at_the_start_holds_up_no_lookup(caplog: pytest.LogCaptureFixture) -> None:
    session = build_session()
    cache = BatchedCache(DefectiveBackend(session))
    for _ in range(5):  # more than may be in flight
        assert await cache.find(session.digest) == session
    assert "lookup not started" in caplog.text


async def test_cancelled_caller_of_a_started_batch_cancels_nothing_for_others() -> None:
    session = build_session()
    backend = FakeBackend(session)
    backend.starts = True
    backend.unblocked.clear()
    cache = BatchedCache(backend)
    async with no_leaks():
        cancelled = asyncio.create_task(cache.find(session.digest))
        other = asyncio.create_task(cache.find(session.digest))
        await wait_until(lambda: len(backend.lookups) == 1)
        await cancel_all([cancelled])
        backend.unblocked.set()
        assert await other == session
