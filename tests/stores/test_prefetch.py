"""What is fetched is kept in memory and told; whatever else happens is told as nothing."""

import asyncio
from typing import NoReturn

import pytest

from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.client.batched import BatchedCache
from sidegate.stores.memory import MemoryStore
from sidegate.stores.prefetch import Prefetcher
from tests.contracts.values import a_digest, a_session
from tests.stores.waiting import until
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import Shelf


class Scene:
    """A shelf, memory, and who fetches from the one to the other."""

    def __init__(self, *sessions: Session) -> None:
        self.shelf = Shelf(*sessions)
        self.local = MemoryStore(
            max_sessions=2, max_bytes=100_000, max_age=5.0, clock=FakeClock(), jitter=lambda: 0.0
        )
        self.useless = set[Digest]()
        self.fetcher = Prefetcher(
            BatchedCache(self.shelf), self.local, deadline=2.0, useless=self.useless.__contains__
        )

    def fetched(self, digest: Digest) -> asyncio.Future[Session | None]:
        told: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
        assert self.fetcher.prefetch(digest, told.set_result, patience=2.0)
        assert not told.done()  # never before we return
        return told


async def test_what_a_hot_store_has_is_kept_and_told() -> None:
    session = a_session()
    scene = Scene(session)

    assert await scene.fetched(session.digest) == session
    assert scene.local.get_nowait(session.digest) == session
    assert scene.local.misses == 1


@pytest.mark.parametrize("wrong", ["nothing", "outage", "unreadable"])
async def test_whatever_else_it_says_is_told_as_nothing(wrong: str) -> None:
    session = a_session()
    scene = Scene() if wrong == "nothing" else Scene(session)
    scene.shelf.down = wrong == "outage"
    scene.shelf.unreadable = {session.digest} if wrong == "unreadable" else set()

    assert await scene.fetched(session.digest) is None
    assert len(scene.local) == 0
    assert scene.local.misses == 1


async def test_of_a_copy_and_a_fresher_one_in_memory_the_fresher_is_told() -> None:
    session = a_session()
    tombstone = session.revoked(NOON)
    scene = Scene(session)
    scene.local.put_nowait(tombstone)

    assert await scene.fetched(session.digest) == tombstone


async def test_all_that_want_something_in_one_tick_share_one_question() -> None:
    sessions = [a_session() for _ in range(5)]
    scene = Scene(*sessions)  # of which memory has room for two

    wanted = [*sessions, sessions[0]]
    told = await asyncio.gather(*(scene.fetched(session.digest) for session in wanted))

    assert told == wanted
    assert scene.shelf.asked == [tuple(session.digest for session in sessions)]


async def test_what_is_on_its_way_is_not_asked_for_again() -> None:
    session = a_session()
    scene = Scene(session)
    scene.shelf.open.clear()

    early = scene.fetched(session.digest)
    await until(lambda: bool(scene.shelf.asked))
    late = scene.fetched(session.digest)
    scene.shelf.open.set()

    assert [await early, await late] == [session, session]
    assert len(scene.shelf.asked) == 1


async def test_what_has_come_is_asked_for_anew() -> None:
    session = a_session()
    scene = Scene(session)

    assert await scene.fetched(session.digest) == session
    scene.shelf.sessions.clear()
    assert await scene.fetched(session.digest) is None


async def test_what_need_not_be_asked_for_is_not() -> None:
    scene, digest, told = Scene(), a_digest(), list[object]()
    scene.useless.add(digest)

    assert not scene.fetcher.prefetch(digest, told.append, patience=2.0)
    await asyncio.sleep(0)
    assert (told, scene.shelf.asked) == ([], [])


async def test_whoever_waits_less_than_the_hot_store_may_take_is_not_fetched_for() -> None:
    session, told = a_session(), list[object]()
    scene = Scene(session)

    assert not scene.fetcher.prefetch(session.digest, told.append, patience=1.999)
    await asyncio.sleep(0)
    assert (told, scene.shelf.asked) == ([], [])


async def test_a_question_that_is_cancelled_is_told_as_nothing() -> None:
    session = a_session()
    scene = Scene(session)
    scene.shelf.open.clear()
    told = scene.fetched(session.digest)
    await until(lambda: bool(scene.shelf.asked))

    (flight,) = asyncio.all_tasks() - {asyncio.current_task()}
    flight.cancel()

    assert await told is None


@pytest.mark.parametrize("where", ["asked", "kept"])
async def test_a_bug_is_told_as_nothing_and_in_the_log(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> NoReturn:
        raise RuntimeError("nobody foresaw this")

    session = a_session()
    scene = Scene(session)
    if where == "asked":
        monkeypatch.setattr(scene.shelf, "find_many", fail)
    else:
        monkeypatch.setattr(scene.local, "keep", fail)

    assert await scene.fetched(session.digest) is None
    assert "nobody foresaw this" in caplog.text
