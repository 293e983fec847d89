"""Single flight: shared results and errors, cancelled callers, timeouts, no leaked tasks."""

import asyncio
from typing import Any

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.read_through import ReadThrough
from sidegate.stores.single_flight import InFlight, SingleFlight
from tests.contracts.values import build_digest, build_session
from tests.stores.waiting import cancel_all, no_leaks, wait_until
from tests.support.clock import FakeClock
from tests.support.fakes import FakeBackend

Caller = asyncio.Task[Any]


def build_single_flight(backend: FakeBackend, *, timeout: float = 30.0) -> SingleFlight:
    return SingleFlight(backend, timeout=timeout)


async def start_callers(backend: FakeBackend, session: Session, count: int) -> list[Caller]:
    """Return `count` callers that wait for `session` until the backend is unblocked."""
    backend.unblocked.clear()
    single_flight = build_single_flight(backend)
    callers = [asyncio.create_task(single_flight.find(session.digest)) for _ in range(count)]
    await wait_until(lambda: bool(backend.lookups))
    return callers


async def test_concurrent_callers_share_one_lookup() -> None:
    session = build_session()
    backend = FakeBackend(session)
    async with no_leaks():
        callers = await start_callers(backend, session, 100)
        backend.unblocked.set()
        assert await asyncio.gather(*callers) == [session] * 100
    assert backend.lookups == [(session.digest,)]


async def test_lookups_in_flight_are_shared_between_lookup_paths() -> None:
    session, in_flight = build_session(), InFlight()
    one, other = FakeBackend(session), FakeBackend()
    one.unblocked.clear()
    async with no_leaks():
        callers = [
            asyncio.create_task(
                SingleFlight(backend, timeout=30.0, in_flight=in_flight).find(session.digest)
            )
            for backend in (one, other)
        ]
        await wait_until(lambda: session.digest in in_flight and bool(one.lookups))
        one.unblocked.set()
        assert await asyncio.gather(*callers) == [session, session]
    assert other.lookups == []
    assert in_flight == {}


async def test_each_digest_has_its_own_lookup() -> None:
    sessions = [build_session() for _ in range(5)]
    backend = FakeBackend(*sessions)
    single_flight = build_single_flight(backend)
    asked = [session.digest for session in sessions] * 3
    assert await asyncio.gather(*map(single_flight.find, asked)) == sessions * 3
    assert len(backend.lookups) == 5


async def test_cancelled_first_caller_does_not_cancel_the_others() -> None:
    session = build_session()
    backend = FakeBackend(session)
    async with no_leaks():
        leader, *followers = await start_callers(backend, session, 10)
        leader.cancel()
        await asyncio.wait([leader])
        backend.unblocked.set()
        assert await asyncio.gather(*followers) == [session] * 9
    assert leader.cancelled()
    assert len(backend.lookups) == 1


async def test_cancelled_later_caller_does_not_cancel_the_first() -> None:
    session = build_session()
    backend = FakeBackend(session)
    async with no_leaks():
        leader, follower = await start_callers(backend, session, 2)
        follower.cancel()
        await asyncio.wait([follower])
        backend.unblocked.set()
        assert await leader == session


async def test_lookup_without_callers_finishes_and_the_next_one_is_new() -> None:
    session = build_session()
    backend = FakeBackend(session)
    single_flight = build_single_flight(backend)
    backend.unblocked.clear()
    async with no_leaks():
        caller = asyncio.create_task(single_flight.find(session.digest))
        await wait_until(lambda: bool(backend.lookups))
        caller.cancel()
        backend.unblocked.set()
    assert await single_flight.find(session.digest) == session
    assert len(backend.lookups) == 2


async def test_concurrent_callers_share_an_error() -> None:
    session = build_session()
    backend = FakeBackend(session)
    backend.down = True
    async with no_leaks():
        callers = await start_callers(backend, session, 10)
        backend.unblocked.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 10
    assert len(backend.lookups) == 1


async def test_timeout_raises_unavailable_with_store_deadline() -> None:
    backend = FakeBackend()
    backend.unblocked.clear()
    async with no_leaks():
        with pytest.raises(StoreUnavailable) as outage:
            await build_single_flight(backend, timeout=0.005).find(build_digest())
        backend.unblocked.set()
    assert outage.value.store == "deadline"


async def test_lookup_that_times_out_still_fills_the_cache() -> None:
    session = build_session()
    cache, origin = FakeBackend(), FakeBackend(session)
    origin.unblocked.clear()
    finder = ReadThrough(cache, origin, clock=FakeClock())
    async with no_leaks():
        with pytest.raises(StoreUnavailable):
            await SingleFlight(finder, timeout=0.005).find(session.digest)
        origin.unblocked.set()
    assert cache.sessions == {session.digest: session}


async def test_outage_before_the_timeout_keeps_its_store() -> None:
    backend = FakeBackend()
    backend.down = True
    with pytest.raises(StoreUnavailable) as outage:
        await build_single_flight(backend).find(build_digest())
    assert outage.value.store == "backend"


async def test_error_is_not_cached() -> None:
    session = build_session()
    backend = FakeBackend(session)
    backend.down = True
    single_flight = build_single_flight(backend)
    with pytest.raises(StoreUnavailable):
        await single_flight.find(session.digest)
    backend.down = False
    assert await single_flight.find(session.digest) == session


async def test_error_without_callers_is_not_reported_to_the_loop() -> None:
    session = build_session()
    backend = FakeBackend(session)
    backend.down = True
    async with no_leaks():
        callers = await start_callers(backend, session, 10)
        await cancel_all(callers)
        backend.unblocked.set()


async def test_finished_lookups_are_removed() -> None:
    backend = FakeBackend()
    single_flight = build_single_flight(backend)
    backend.down = True
    await asyncio.gather(
        *(single_flight.find(build_digest()) for _ in range(20)), return_exceptions=True
    )
    backend.down = False
    callers = [asyncio.create_task(single_flight.find(build_digest())) for _ in range(20)]
    await asyncio.sleep(0)
    for caller in callers[::2]:
        caller.cancel()
    await asyncio.wait(callers)
    await wait_until(lambda: single_flight._in_flight == {})  # noqa: SLF001  # not visible otherwise


async def test_caller_at_the_end_of_a_lookup_gets_a_result() -> None:
    session = build_session()
    backend = FakeBackend(session)
    single_flight = build_single_flight(backend)
    first = asyncio.create_task(single_flight.find(session.digest))
    while not first.done():
        assert await single_flight.find(session.digest) == session
    assert await first == session


def test_lookups_cancelled_by_loop_shutdown_report_nothing() -> None:
    errors: list[object] = []

    async def leave_in_flight() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        session = build_session()
        await start_callers(FakeBackend(session), session, 5)

    asyncio.run(leave_in_flight())
    assert errors == []
