"""One flight for many callers: who may leave, who hears of errors, and that nothing is left."""

import asyncio
from typing import Any

import pytest

from sidegate.core.errors import StoreUnavailable
from sidegate.core.session import Session
from sidegate.stores.read_through import ReadThrough
from sidegate.stores.single_flight import InFlight, SingleFlight
from tests.contracts.values import a_digest, a_session
from tests.stores.waiting import all_leave, nothing_is_left, until
from tests.support.clock import FakeClock
from tests.support.fakes import Shelf

Caller = asyncio.Task[Any]


def a_coalesce(shelf: Shelf, *, patience: float = 30.0) -> SingleFlight:
    return SingleFlight(shelf, patience=patience)


async def callers_in_the_air(shelf: Shelf, session: Session, count: int) -> list[Caller]:
    """Return `count` callers who wait for `session`; they are answered when the shelf opens."""
    shelf.open.clear()
    coalesce = a_coalesce(shelf)
    callers = [asyncio.create_task(coalesce.find(session.digest)) for _ in range(count)]
    await until(lambda: bool(shelf.asked))
    return callers


async def test_many_callers_share_one_flight() -> None:
    session = a_session()
    shelf = Shelf(session)
    async with nothing_is_left():
        callers = await callers_in_the_air(shelf, session, 100)
        shelf.open.set()
        assert await asyncio.gather(*callers) == [session] * 100
    assert shelf.asked == [(session.digest,)]


async def test_what_is_under_way_on_another_road_to_the_same_truth_is_shared() -> None:
    session, under_way = a_session(), InFlight()
    one, another = Shelf(session), Shelf()
    one.open.clear()
    async with nothing_is_left():
        asking = [
            asyncio.create_task(
                SingleFlight(shelf, patience=30.0, under_way=under_way).find(session.digest)
            )
            for shelf in (one, another)
        ]
        await until(lambda: session.digest in under_way and bool(one.asked))
        one.open.set()
        assert await asyncio.gather(*asking) == [session, session]
    assert another.asked == []
    assert under_way == {}


async def test_each_digest_has_a_flight_of_its_own() -> None:
    sessions = [a_session() for _ in range(5)]
    shelf = Shelf(*sessions)
    coalesce = a_coalesce(shelf)
    asked = [session.digest for session in sessions] * 3
    assert await asyncio.gather(*map(coalesce.find, asked)) == sessions * 3
    assert len(shelf.asked) == 5


async def test_the_leader_may_leave_and_the_others_are_answered() -> None:
    session = a_session()
    shelf = Shelf(session)
    async with nothing_is_left():
        leader, *followers = await callers_in_the_air(shelf, session, 10)
        leader.cancel()
        await asyncio.wait([leader])
        shelf.open.set()
        assert await asyncio.gather(*followers) == [session] * 9
    assert leader.cancelled()
    assert len(shelf.asked) == 1


async def test_a_follower_may_leave_and_the_leader_is_answered() -> None:
    session = a_session()
    shelf = Shelf(session)
    async with nothing_is_left():
        leader, follower = await callers_in_the_air(shelf, session, 2)
        follower.cancel()
        await asyncio.wait([follower])
        shelf.open.set()
        assert await leader == session


async def test_a_flight_that_everybody_left_still_lands_and_the_next_one_flies_anew() -> None:
    session = a_session()
    shelf = Shelf(session)
    coalesce = a_coalesce(shelf)
    shelf.open.clear()
    async with nothing_is_left():
        caller = asyncio.create_task(coalesce.find(session.digest))
        await until(lambda: bool(shelf.asked))
        caller.cancel()
        shelf.open.set()
    assert await coalesce.find(session.digest) == session
    assert len(shelf.asked) == 2


async def test_all_callers_of_a_flight_share_its_error() -> None:
    session = a_session()
    shelf = Shelf(session)
    shelf.down = True
    async with nothing_is_left():
        callers = await callers_in_the_air(shelf, session, 10)
        shelf.open.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 10
    assert len(shelf.asked) == 1


async def test_whoever_has_waited_too_long_is_told_that_the_deadline_was_unavailable() -> None:
    shelf = Shelf()
    shelf.open.clear()
    async with nothing_is_left():
        with pytest.raises(StoreUnavailable) as outage:
            await a_coalesce(shelf, patience=0.005).find(a_digest())
        shelf.open.set()
    assert outage.value.store == "deadline"


async def test_what_comes_too_late_for_whoever_asked_is_kept_for_the_next() -> None:
    session = a_session()
    near, far = Shelf(), Shelf(session)
    far.open.clear()
    finder = ReadThrough(near, far, clock=FakeClock())
    async with nothing_is_left():
        with pytest.raises(StoreUnavailable):
            await SingleFlight(finder, patience=0.005).find(session.digest)
        far.open.set()
    assert near.sessions == {session.digest: session}


async def test_an_outage_in_time_keeps_its_name() -> None:
    shelf = Shelf()
    shelf.down = True
    with pytest.raises(StoreUnavailable) as outage:
        await a_coalesce(shelf).find(a_digest())
    assert outage.value.store == "shelf"


async def test_an_error_is_forgotten_with_its_flight() -> None:
    session = a_session()
    shelf = Shelf(session)
    shelf.down = True
    coalesce = a_coalesce(shelf)
    with pytest.raises(StoreUnavailable):
        await coalesce.find(session.digest)
    shelf.down = False
    assert await coalesce.find(session.digest) == session


async def test_an_error_that_nobody_waited_for_makes_no_noise() -> None:
    session = a_session()
    shelf = Shelf(session)
    shelf.down = True
    async with nothing_is_left():
        callers = await callers_in_the_air(shelf, session, 10)
        await all_leave(callers)
        shelf.open.set()


async def test_answers_are_forgotten_with_their_flights() -> None:
    shelf = Shelf()
    coalesce = a_coalesce(shelf)
    shelf.down = True
    await asyncio.gather(*(coalesce.find(a_digest()) for _ in range(20)), return_exceptions=True)
    shelf.down = False
    callers = [asyncio.create_task(coalesce.find(a_digest())) for _ in range(20)]
    await asyncio.sleep(0)
    for caller in callers[::2]:
        caller.cancel()
    await asyncio.wait(callers)
    await until(lambda: coalesce._flights == {})  # noqa: SLF001  # nothing else shows what it holds


async def test_a_caller_who_comes_at_the_landing_is_answered() -> None:
    session = a_session()
    shelf = Shelf(session)
    coalesce = a_coalesce(shelf)
    first = asyncio.create_task(coalesce.find(session.digest))
    while not first.done():
        assert await coalesce.find(session.digest) == session
    assert await first == session


def test_flights_that_the_end_of_the_loop_cuts_short_make_no_noise() -> None:
    complaints: list[object] = []

    async def leave_in_the_air() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        session = a_session()
        await callers_in_the_air(Shelf(session), session, 5)

    asyncio.run(leave_in_the_air())
    assert complaints == []
