"""The cleanup job: bounded batches, nothing too early, failures retried."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.errors import PurgeInProgress, StoreUnavailable
from sidegate.core.protocols import Purger
from sidegate.services.cleanup import CleanupJob
from sidegate.stores.postgres.sessions import PURGE_LOCK, PostgresSessions
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_record, build_session
from tests.stores.postgres.raw_connection import connect_directly
from tests.support.clock import FakeClock
from tests.support.database_time import migrate_for_test_clock

DAY = timedelta(days=1)


def build_job(durable: Purger, counts: Counter[str], *, batch: int = 10) -> CleanupJob:
    return CleanupJob(
        durable,
        retention=DAY,
        batch=batch,
        clock=FakeClock(),
        count=lambda outcome, count: counts.update({outcome: count}),
    )


class Backlog:
    """A store with a number of old sessions, whose second `purge` fails."""

    def __init__(self, old: int) -> None:
        self.old = old
        self.calls = 0
        self.emptied = asyncio.Event()

    async def purge(self, expired_before: object, *, limit: int) -> int:
        assert expired_before == FakeClock().now() - DAY
        self.calls += 1
        if self.calls == 2:
            raise StoreUnavailable("backlog", "unavailable in this test")
        purged = min(limit, self.old)
        self.old -= purged
        if self.old == 0:
            self.emptied.set()
        return purged


async def test_failed_batch_is_retried_at_the_next_run() -> None:
    backlog, counts = Backlog(old=25), Counter[str]()
    job = build_job(backlog, counts)
    running = asyncio.create_task(job.run(interval=0.001))
    await backlog.emptied.wait()
    await asyncio.sleep(0)
    running.cancel()
    assert counts["purged"] == 25
    assert counts["failed"] == 1


async def test_size_of_each_batch_is_yielded(tmp_path: Path) -> None:
    durable = await SqliteSessions.open(tmp_path / "sidegate.db")
    old = FakeClock().now() - 3 * DAY
    for _ in range(5):
        await durable.create(build_record(build_session(at=old)))
    job = build_job(durable, Counter(), batch=2)
    assert [purged async for purged in job.clean()] == [2, 2, 1]
    await durable.close()


async def test_run_ends_quietly_while_another_process_cleans_up() -> None:
    class Taken:
        """A store in which another process purges; `retried` is set at the second attempt."""

        def __init__(self) -> None:
            self.calls = 0
            self.retried = asyncio.Event()

        async def purge(self, *_: object, **__: object) -> int:
            self.calls += 1
            if self.calls == 2:
                self.retried.set()
            raise PurgeInProgress

    taken, counts = Taken(), Counter[str]()
    running = asyncio.create_task(build_job(taken, counts).run(interval=0.001))
    await asyncio.wait_for(taken.retried.wait(), 10)
    running.cancel()
    assert not counts


async def test_clean_raises_when_another_process_takes_the_turn(database_url: str) -> None:
    await migrate_for_test_clock(database_url)
    durable = await PostgresSessions.open(database_url)
    for _ in range(5):
        await durable.create(build_record(build_session(at=FakeClock().now() - 3 * DAY)))
    counts = Counter[str]()
    batches = build_job(durable, counts, batch=2).clean()
    assert await anext(batches) == 2

    async with connect_directly(database_url) as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", PURGE_LOCK)
        with pytest.raises(PurgeInProgress):
            await anext(batches)

    assert counts == {"purged": 2}
    await durable.close()


async def test_batch_that_times_out_counts_as_failed() -> None:
    class Locked:
        """A store in which another client holds a lock for ever."""

        async def purge(self, *_: object, **__: object) -> int:
            return await asyncio.Event().wait()

    failed = asyncio.Event()
    job = CleanupJob(
        Locked(),
        retention=DAY,
        batch=10,
        clock=FakeClock(),
        count=lambda outcome, _: failed.set() if outcome == "failed" else None,
        timeout=0.001,
    )
    running = asyncio.create_task(job.run(interval=3600))
    await asyncio.wait_for(failed.wait(), 10)
    running.cancel()
