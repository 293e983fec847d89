"""The look-ups of one tick travel together, and each is answered for itself."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.client.batched import Batched, BatchedCache
from tests.contracts.values import a_digest, a_session
from tests.stores.waiting import all_leave, nothing_is_left, until
from tests.support.clock import NOON
from tests.support.fakes import Shelf


async def test_the_lookups_of_one_tick_are_one_round_trip() -> None:
    sessions = [a_session() for _ in range(20)]
    shelf = Shelf(*sessions)
    batched = Batched(shelf)
    digests = [session.digest for session in sessions]
    assert await asyncio.gather(*map(batched.find, digests)) == sessions
    assert shelf.asked == [tuple(digests)]
    assert batched.round_trips() == 1


async def test_a_digest_asked_for_twice_in_a_tick_travels_once() -> None:
    session = a_session()
    shelf = Shelf(session)
    batched = Batched(shelf)
    assert await asyncio.gather(*(batched.find(session.digest) for _ in range(3))) == [session] * 3
    assert shelf.asked == [(session.digest,)]


async def test_the_next_tick_travels_by_itself_and_does_not_wait() -> None:
    first, second = a_digest(), a_digest()
    shelf = Shelf()
    shelf.open.clear()
    batched = Batched(shelf)
    caller = asyncio.create_task(batched.find(first))
    await until(lambda: shelf.asked == [(first,)])
    another = asyncio.create_task(batched.find(second))
    await until(lambda: shelf.asked == [(first,), (second,)])
    shelf.open.set()
    assert [await caller, await another] == [None, None]


async def test_a_tick_that_asks_for_too_much_sends_several() -> None:
    sessions = [a_session() for _ in range(10)]
    shelf = Shelf(*sessions)
    batched = Batched(shelf, max_batch=4)
    found = await asyncio.gather(*(batched.find(session.digest) for session in sessions))
    assert found == sessions
    assert [len(batch) for batch in shelf.asked] == [4, 4, 2]


async def test_an_unreadable_record_hurts_only_those_who_ask_for_it() -> None:
    good, bad = [a_session() for _ in range(5)], a_session()
    missing = a_digest()
    shelf = Shelf(*good, bad)
    shelf.unreadable = {bad.digest}
    batched = Batched(shelf)
    asked = [*(session.digest for session in good), bad.digest, missing]
    async with nothing_is_left():
        answers = await asyncio.gather(*map(batched.find, asked), return_exceptions=True)
    assert answers[:5] == good
    assert isinstance(answers[5], UnreadableRecord)
    assert answers[6] is None


async def test_an_unreadable_record_alone_is_asked_for_once() -> None:
    bad = a_session()
    shelf = Shelf(bad)
    shelf.unreadable = {bad.digest}
    with pytest.raises(UnreadableRecord):
        await Batched(shelf).find(bad.digest)
    assert len(shelf.asked) == 1


async def test_an_outage_while_each_is_asked_alone_is_that_of_all_who_are_left() -> None:
    class GoesDown(Shelf):
        async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
            self.down = len(self.asked) > 2
            return await super().find_many(digests)

    sessions = [a_session() for _ in range(4)]
    shelf = GoesDown(*sessions)
    shelf.unreadable = {sessions[0].digest}
    batched = Batched(shelf)
    async with nothing_is_left():
        answers = await asyncio.gather(
            *(batched.find(session.digest) for session in sessions), return_exceptions=True
        )
    assert isinstance(answers[0], UnreadableRecord)
    assert answers[1] == sessions[1]
    assert all(isinstance(answer, StoreUnavailable) for answer in answers[2:])


async def test_an_outage_is_everybodys() -> None:
    shelf = Shelf()
    shelf.down = True
    batched = Batched(shelf)
    async with nothing_is_left():
        answers = await asyncio.gather(
            *(batched.find(a_digest()) for _ in range(9)), return_exceptions=True
        )
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 9


async def test_whatever_a_leaf_raises_reaches_those_who_wait() -> None:
    class Broken(Shelf):
        async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
            raise ZeroDivisionError(len(digests))

    batched = Batched(Broken())
    async with nothing_is_left():
        answers = await asyncio.gather(
            *(batched.find(a_digest()) for _ in range(3)), return_exceptions=True
        )
    assert [type(answer) for answer in answers] == [ZeroDivisionError] * 3


async def test_an_error_is_forgotten_with_its_batch() -> None:
    session = a_session()
    shelf = Shelf(session)
    batched = Batched(shelf)
    shelf.down = True
    with pytest.raises(StoreUnavailable):
        await batched.find(session.digest)
    shelf.down = False
    assert await batched.find(session.digest) == session


@pytest.mark.parametrize("down", [False, True])
async def test_a_batch_that_everybody_left_makes_no_noise(down: bool) -> None:
    session = a_session()
    shelf = Shelf(session)
    shelf.down = down
    shelf.open.clear()
    batched = Batched(shelf)
    async with nothing_is_left():
        callers: list[asyncio.Task[Any]] = [
            asyncio.create_task(batched.find(session.digest)) for _ in range(5)
        ]
        await until(lambda: bool(shelf.asked))
        await all_leave(callers)
        shelf.open.set()
    assert shelf.asked == [(session.digest,)]


async def test_the_first_of_a_tick_may_leave_before_the_batch_does() -> None:
    session = a_session()
    shelf = Shelf(session)
    batched = Batched(shelf)
    first, second = (asyncio.create_task(batched.find(session.digest)) for _ in range(2))
    asyncio.get_running_loop().call_soon(first.cancel)
    assert await second == session


async def test_a_batch_that_is_cancelled_leaves_nobody_waiting() -> None:
    shelf = Shelf()
    shelf.open.clear()
    batched = Batched(shelf)
    callers = [asyncio.create_task(batched.find(a_digest())) for _ in range(3)]
    await until(lambda: bool(shelf.asked))
    [batch] = asyncio.all_tasks() - {*callers, asyncio.current_task()}
    async with nothing_is_left():
        batch.cancel()
        await asyncio.wait_for(asyncio.wait(callers), 5)
    assert all(caller.cancelled() for caller in callers)


def test_a_batch_that_the_end_of_the_loop_cuts_short_makes_no_noise() -> None:
    complaints: list[object] = []

    async def leave_in_the_air() -> list[asyncio.Task[Session | None]]:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        shelf = Shelf()
        shelf.open.clear()
        batched = Batched(shelf)
        callers = [asyncio.create_task(batched.find(a_digest())) for _ in range(3)]
        await until(lambda: bool(shelf.asked))
        return callers

    callers = asyncio.run(leave_in_the_air())
    assert all(caller.cancelled() for caller in callers)
    assert complaints == []


# --- What is put


class Counting(Shelf):
    """A shelf that notes what was put at once."""

    def __init__(self, *sessions: Session) -> None:
        super().__init__(*sessions)
        self.loads: list[int] = []

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        self.loads.append(len(sessions))
        return await super().put_many(sessions)


async def test_what_is_put_in_one_tick_is_one_round_trip() -> None:
    sessions, shelf = [a_session() for _ in range(20)], Counting()
    assert await asyncio.gather(*map(BatchedCache(shelf).put, sessions)) == sessions
    assert shelf.loads == [20]
    assert list(shelf.sessions.values()) == sessions


async def test_each_is_told_what_was_kept_under_its_own_digest() -> None:
    session, another = a_session(), a_session()
    tombstone = session.revoked(NOON)
    hot = BatchedCache(Counting(tombstone))
    assert await asyncio.gather(*map(hot.put, (another, session))) == [another, tombstone]


@pytest.mark.parametrize("tombstone_first", [True, False])
async def test_of_two_copies_put_in_one_tick_the_fresher_travels(tombstone_first: bool) -> None:
    session = a_session()
    tombstone = session.revoked(NOON)
    shelf = Counting()
    hot = BatchedCache(shelf)
    copies = [tombstone, session] if tombstone_first else [session, tombstone]
    assert await asyncio.gather(*map(hot.put, copies)) == [tombstone, tombstone]
    assert shelf.sessions == {session.digest: tombstone}


async def test_a_tick_that_puts_too_much_sends_several() -> None:
    shelf = Counting()
    hot = BatchedCache(shelf, max_puts=4)
    await asyncio.gather(*(hot.put(a_session()) for _ in range(10)))
    assert shelf.loads == [4, 4, 2]


async def test_an_outage_is_told_to_everybody_who_puts() -> None:
    shelf = Counting()
    shelf.down = True
    hot = BatchedCache(shelf)
    async with nothing_is_left():
        told = await asyncio.gather(
            *(hot.put(a_session()) for _ in range(3)), return_exceptions=True
        )
    assert [type(answer) for answer in told] == [StoreUnavailable] * 3


# --- The bulkhead


async def test_a_flight_that_is_late_holds_nobody_up() -> None:
    first, second = a_session(), a_session()
    shelf = Shelf(first, second)
    shelf.open.clear()
    batched = Batched(shelf, max_flights=1, late=0.001)
    async with nothing_is_left():
        early = asyncio.create_task(batched.find(first.digest))
        await until(lambda: len(shelf.asked) == 1)
        late = asyncio.create_task(batched.find(second.digest))
        await until(lambda: len(shelf.asked) == 2)
        shelf.open.set()
        assert [await early, await late] == [first, second]


async def test_look_ups_in_a_hot_store_gather_while_two_flights_are_out() -> None:
    sessions = [a_session() for _ in range(9)]
    shelf = Shelf(*sessions)
    shelf.open.clear()
    hot = BatchedCache(shelf)
    asking = []
    for session in sessions:
        asking.append(hot.submit(session.digest))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    shelf.open.set()

    assert await asyncio.gather(*asking) == sessions
    assert list(map(len, shelf.asked[:2])) == [1, 1]
    assert len(shelf.asked) < 9


async def test_while_all_flights_are_out_what_is_asked_gathers_for_the_next() -> None:
    sessions = [a_session() for _ in range(12)]
    shelf = Shelf(*sessions)
    shelf.open.clear()
    batched = Batched(shelf, max_flights=2)
    callers = []
    for session in sessions:  # each in a tick of its own
        callers.append(asyncio.create_task(batched.find(session.digest)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await until(lambda: len(shelf.asked) == 2)
    shelf.open.set()
    assert await asyncio.gather(*callers) == sessions
    assert [len(batch) for batch in shelf.asked] == [1, 1, 10]


async def test_a_batch_that_is_cancelled_before_it_began_leaves_nobody_waiting() -> None:
    asking = asyncio.ensure_future(Batched(Shelf()).find(a_digest()))
    await asyncio.sleep(0)  # it boards
    await asyncio.sleep(0)  # and the batch is made, but has not begun

    (batch,) = asyncio.all_tasks() - {asyncio.current_task(), asking}
    batch.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_beyond_what_may_wait_the_store_is_unavailable_at_once() -> None:
    shelf = Shelf()
    shelf.open.clear()
    batched = Batched(shelf, store="postgres", max_batch=2, max_flights=1, max_waiting=5)
    waiting = [asyncio.create_task(batched.find(a_digest())) for _ in range(5)]
    await until(lambda: bool(shelf.asked))
    with pytest.raises(StoreUnavailable) as outage:
        await batched.find(a_digest())
    assert outage.value.store == "postgres"
    shelf.open.set()
    assert await asyncio.gather(*waiting) == [None] * 5
    assert await batched.find(a_digest()) is None  # there is room again


async def test_a_digest_that_waits_already_takes_no_more_room() -> None:
    session = a_session()
    shelf = Shelf(session)
    shelf.open.clear()
    batched = Batched(shelf, max_waiting=1)
    callers = [asyncio.create_task(batched.find(session.digest)) for _ in range(3)]
    await until(lambda: bool(shelf.asked))
    shelf.open.set()
    assert await asyncio.gather(*callers) == [session] * 3


async def test_a_flight_that_fails_makes_room_for_the_next() -> None:
    shelf = Shelf()
    shelf.open.clear()
    batched = Batched(shelf, max_batch=1, max_flights=1)
    first, second = (asyncio.create_task(batched.find(a_digest())) for _ in range(2))
    await until(lambda: bool(shelf.asked))
    shelf.down = True
    shelf.open.set()
    async with nothing_is_left():
        told = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in told] == [StoreUnavailable] * 2
    assert len(shelf.asked) == 2
