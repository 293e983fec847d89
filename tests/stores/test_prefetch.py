"""Prefetch puts sessions into memory and calls back; every failure is reported as None."""

import asyncio
from typing import NoReturn

import pytest

from sidegate.core.digest import Digest
from sidegate.core.session import Session
from sidegate.stores.client.batching import BatchedCache
from sidegate.stores.memory import MemoryStore
from sidegate.stores.prefetch import Prefetcher
from tests.contracts.values import build_digest, build_session
from tests.stores.waiting import wait_until
from tests.support.clock import NOON, FakeClock
from tests.support.fakes import FakeBackend


class Harness:
    """A backend, memory, and a prefetcher between them."""

    def __init__(self, *sessions: Session) -> None:
        self.backend = FakeBackend(*sessions)
        self.memory = MemoryStore(
            max_sessions=2, max_bytes=100_000, max_age=5.0, clock=FakeClock(), jitter=lambda: 0.0
        )
        self.skipped = set[Digest]()
        self.prefetcher = Prefetcher(
            BatchedCache(self.backend),
            self.memory,
            deadline=2.0,
            should_skip=self.skipped.__contains__,
        )

    def prefetch(self, digest: Digest) -> asyncio.Future[Session | None]:
        done: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
        assert self.prefetcher.prefetch(digest, done.set_result, timeout=2.0)
        assert not done.done()  # never before `prefetch` returns
        return done


async def test_cached_session_is_put_into_memory_and_returned() -> None:
    session = build_session()
    harness = Harness(session)

    assert await harness.prefetch(session.digest) == session
    assert harness.memory.get_nowait(session.digest) == session
    assert harness.memory.misses == 1


@pytest.mark.parametrize("failure", ["miss", "outage", "unreadable"])
async def test_miss_or_failure_returns_none(failure: str) -> None:
    session = build_session()
    harness = Harness() if failure == "miss" else Harness(session)
    harness.backend.down = failure == "outage"
    harness.backend.unreadable = {session.digest} if failure == "unreadable" else set()

    assert await harness.prefetch(session.digest) is None
    assert len(harness.memory) == 0
    assert harness.memory.misses == 1


async def test_fresher_session_in_memory_is_returned() -> None:
    session = build_session()
    tombstone = session.revoked(NOON)
    harness = Harness(session)
    harness.memory.put_nowait(tombstone)

    assert await harness.prefetch(session.digest) == tombstone


async def test_prefetches_of_one_tick_share_one_round_trip() -> None:
    sessions = [build_session() for _ in range(5)]
    harness = Harness(*sessions)  # memory has room for two of them

    wanted = [*sessions, sessions[0]]
    results = await asyncio.gather(*(harness.prefetch(session.digest) for session in wanted))

    assert results == wanted
    assert harness.backend.lookups == [tuple(session.digest for session in sessions)]


async def test_digest_in_flight_is_not_looked_up_again() -> None:
    session = build_session()
    harness = Harness(session)
    harness.backend.unblocked.clear()

    first = harness.prefetch(session.digest)
    await wait_until(lambda: bool(harness.backend.lookups))
    second = harness.prefetch(session.digest)
    harness.backend.unblocked.set()

    assert [await first, await second] == [session, session]
    assert len(harness.backend.lookups) == 1


async def test_finished_prefetch_is_not_cached_in_flight() -> None:
    session = build_session()
    harness = Harness(session)

    assert await harness.prefetch(session.digest) == session
    harness.backend.sessions.clear()
    assert await harness.prefetch(session.digest) is None


async def test_skipped_digest_is_not_looked_up() -> None:
    harness, digest, results = Harness(), build_digest(), list[object]()
    harness.skipped.add(digest)

    assert not harness.prefetcher.prefetch(digest, results.append, timeout=2.0)
    await asyncio.sleep(0)
    assert (results, harness.backend.lookups) == ([], [])


async def test_timeout_shorter_than_the_deadline_is_refused() -> None:
    session, results = build_session(), list[object]()
    harness = Harness(session)

    assert not harness.prefetcher.prefetch(session.digest, results.append, timeout=1.999)
    await asyncio.sleep(0)
    assert (results, harness.backend.lookups) == ([], [])


async def test_cancelled_batch_returns_none() -> None:
    session = build_session()
    harness = Harness(session)
    harness.backend.unblocked.clear()
    results = harness.prefetch(session.digest)
    await wait_until(lambda: bool(harness.backend.lookups))

    (batch,) = asyncio.all_tasks() - {asyncio.current_task()}
    batch.cancel()

    assert await results is None


@pytest.mark.parametrize("step", ["find", "put"])
async def test_unexpected_error_is_logged_and_returns_none(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> NoReturn:
        raise RuntimeError("unexpected")

    session = build_session()
    harness = Harness(session)
    if step == "find":
        monkeypatch.setattr(harness.backend, "find_many", fail)
    else:
        monkeypatch.setattr(harness.memory, "put_nowait", fail)

    assert await harness.prefetch(session.digest) is None
    assert "unexpected" in caplog.text
