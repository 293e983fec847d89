"""Flights of find: shared results and errors, cancelled callers, deadlines, no leaked tasks."""

import asyncio

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from tests.contracts.values import build_digest, build_session
from tests.stores.lookup.harness import LookupHarness
from tests.stores.waiting import cancel_all, no_leaks, wait_until


def build_harness(session: Session, *, deadline: float = 30.0) -> LookupHarness:
    return LookupHarness(database=[session], deadline=deadline)


# --- Shared lookups


async def test_concurrent_callers_share_one_lookup() -> None:
    session = build_session()
    harness = build_harness(session)
    async with no_leaks():
        callers = await harness.start_callers(session.digest, 100)
        harness.database.unblocked.set()
        assert await asyncio.gather(*callers) == [session] * 100
    assert harness.redis.lookups == harness.database.lookups == [(session.digest,)]


@pytest.mark.parametrize("first_skips_redis", [False, True])
async def test_find_with_and_without_skip_redis_share_a_flight(first_skips_redis: bool) -> None:
    session = build_session()
    harness = build_harness(session)
    async with no_leaks():
        first = await harness.start_callers(session.digest, 1, skip_redis=first_skips_redis)
        second = await harness.start_callers(session.digest, 1, skip_redis=not first_skips_redis)
        await asyncio.sleep(0)  # the second has begun
        harness.database.unblocked.set()
        assert await asyncio.gather(*first, *second) == [session, session]
    assert harness.database.lookups == [(session.digest,)]
    assert len(harness.redis.lookups) == (not first_skips_redis)


async def test_each_digest_is_looked_up_once() -> None:
    sessions = [build_session() for _ in range(5)]
    harness = LookupHarness(database=sessions)
    asked = [session.digest for session in sessions] * 3

    assert await asyncio.gather(*map(harness.find, asked)) == sessions * 3
    [digests] = harness.database.lookups
    assert sorted(digests) == sorted(session.digest for session in sessions)


async def test_concurrent_callers_share_an_error() -> None:
    session = build_session()
    harness = build_harness(session)
    harness.database.down = True
    async with no_leaks():
        callers = await harness.start_callers(session.digest, 10)
        harness.database.unblocked.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 10
    assert len(harness.database.lookups) == 1


async def test_caller_at_the_end_of_a_flight_gets_a_result() -> None:
    session = build_session()
    harness = build_harness(session)
    first = asyncio.create_task(harness.find(session.digest))
    while not first.done():
        assert await harness.find(session.digest, skip_redis=True) == session
    assert await first == session


# --- Cancelled callers


@pytest.mark.parametrize("cancelled", [0, 9], ids=["first", "last"])
async def test_cancelled_caller_does_not_cancel_the_others(cancelled: int) -> None:
    session = build_session()
    harness = build_harness(session)
    async with no_leaks():
        callers = await harness.start_callers(session.digest, 10)
        caller = callers.pop(cancelled)
        caller.cancel()
        await asyncio.wait([caller])
        harness.database.unblocked.set()
        assert await asyncio.gather(*callers) == [session] * 9
    assert caller.cancelled()
    assert len(harness.database.lookups) == 1


async def test_flight_without_callers_fills_the_caches_and_the_next_one_is_new() -> None:
    session = build_session()
    harness = build_harness(session)
    async with no_leaks():
        await cancel_all(await harness.start_callers(session.digest, 1))
        harness.database.unblocked.set()
    assert harness.peek(session.digest) == session
    assert harness.redis.sessions == {session.digest: session}

    assert await harness.find(session.digest, skip_redis=True) == session
    assert len(harness.database.lookups) == 2


async def test_flight_without_callers_caches_a_miss() -> None:
    harness, digest = LookupHarness(), build_digest()
    async with no_leaks():
        await cancel_all(await harness.start_callers(digest, 10))
        harness.database.unblocked.set()
    assert digest in harness.misses


async def test_error_without_callers_is_not_reported_to_the_loop() -> None:
    session = build_session()
    harness = build_harness(session)
    harness.database.down = True
    async with no_leaks():
        await cancel_all(await harness.start_callers(session.digest, 10))
        harness.database.unblocked.set()


@pytest.mark.parametrize("outcome", ["session", "error", "half of the callers cancelled"])
async def test_ended_flights_are_removed(outcome: str) -> None:
    sessions = [build_session() for _ in range(20)]
    harness = LookupHarness(database=sessions)
    harness.database.down = outcome == "error"
    callers = [asyncio.create_task(harness.find(session.digest)) for session in sessions]
    await wait_until(lambda: sum(map(len, harness.database.lookups)) == 20)
    if outcome == "half of the callers cancelled":
        for caller in callers[::2]:
            caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    # Neither has a digest a flight, nor a cached miss, which would refuse it, too.
    await wait_until(
        lambda: not any(harness.refuses_prefetch(session.digest) for session in sessions)
    )


def test_flights_cancelled_by_loop_shutdown_report_nothing() -> None:
    errors: list[object] = []

    async def leave_in_flight() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        session = build_session()
        await build_harness(session).start_callers(session.digest, 5)

    asyncio.run(leave_in_flight())
    assert errors == []


# --- Deadlines


@pytest.mark.parametrize("blocked", ["redis", "database"])
async def test_deadline_raises_unavailable_with_store_deadline(blocked: str) -> None:
    session = build_session()
    harness = build_harness(session, deadline=0.005)
    store = {"redis": harness.redis, "database": harness.database}[blocked]
    store.unblocked.clear()
    async with no_leaks():
        with pytest.raises(StoreUnavailable) as outage:
            await harness.find(session.digest)
        store.unblocked.set()
    assert outage.value.store == "deadline"
    assert "5 ms" in str(outage.value)


async def test_flight_that_outlasts_the_deadline_still_fills_the_caches() -> None:
    session = build_session()
    harness = build_harness(session, deadline=0.005)
    harness.database.unblocked.clear()
    async with no_leaks():
        with pytest.raises(StoreUnavailable):
            await harness.find(session.digest)
        harness.database.unblocked.set()
    assert harness.peek(session.digest) == session
    assert harness.redis.sessions == {session.digest: session}


async def test_flight_that_outlasts_the_deadline_still_caches_a_miss() -> None:
    harness, digest = LookupHarness(deadline=0.005), build_digest()
    harness.database.unblocked.clear()
    async with no_leaks():
        with pytest.raises(StoreUnavailable):
            await harness.find(digest)
        harness.database.unblocked.set()
    assert await harness.find(digest) is None
    assert harness.database.lookups == [(digest,)]


async def test_deadline_at_the_end_of_a_flight_reports_nothing_to_the_loop() -> None:
    session = build_session()
    harness = build_harness(session, deadline=0.0)
    async with no_leaks():
        callers = []
        for _ in range(20):  # one joins in each tick of the flight, and after it
            callers.append(asyncio.create_task(harness.find(session.digest, skip_redis=True)))
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert session in outcomes
    assert {type(outcome) for outcome in outcomes} == {Session, StoreUnavailable}


async def test_outage_before_the_deadline_keeps_its_store() -> None:
    harness = LookupHarness()
    harness.database.down = True
    with pytest.raises(StoreUnavailable) as outage:
        await harness.find(build_digest())
    assert outage.value.store == "backend"
