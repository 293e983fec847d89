"""Cleaning up: bounded work, nothing too early, and errors that wait for the next time."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import DurableStore
from sidegate.services.cleanup import CleanupJob
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import a_record, a_session
from tests.support.clock import FakeClock

DAY = timedelta(days=1)


def a_janitor(durable: DurableStore, counts: Counter[str], *, batch: int = 10) -> CleanupJob:
    return CleanupJob(
        durable,
        retention=DAY,
        batch=batch,
        clock=FakeClock(),
        counted=lambda outcome, count: counts.update({outcome: count}),
    )


class Backlog:
    """A store with so many old sessions, which may fail now and then."""

    def __init__(self, old: int) -> None:
        self.old = old
        self.asked = 0
        self.emptied = asyncio.Event()

    async def purge(self, expired_before: object, *, limit: int) -> int:
        assert expired_before == FakeClock().now() - DAY
        self.asked += 1
        if self.asked == 2:
            raise StoreUnavailable("backlog", "not now")
        purged = min(limit, self.old)
        self.old -= purged
        if self.old == 0:
            self.emptied.set()
        return purged


async def test_it_works_in_batches_and_a_failure_waits_for_the_next_time() -> None:
    backlog, counts = Backlog(old=25), Counter[str]()
    janitor = a_janitor(backlog, counts)  # type: ignore[arg-type]  # one verb is all it needs
    running = asyncio.create_task(janitor.run(every=0.001))
    await backlog.emptied.wait()
    await asyncio.sleep(0)
    running.cancel()
    assert counts["purged"] == 25
    assert counts["failed"] == 1


async def test_there_is_progress_to_be_seen(tmp_path: Path) -> None:
    durable = await SqliteSessions.open(tmp_path / "sidegate.db")
    old = FakeClock().now() - 3 * DAY
    for _ in range(5):
        await durable.create(a_record(a_session(at=old)))
    janitor = a_janitor(durable, Counter(), batch=2)
    assert [purged async for purged in janitor.clean()] == [2, 2, 1]
    await durable.close()


async def test_a_batch_that_takes_too_long_has_failed() -> None:
    class Locked:
        """A store in which somebody holds a lock for ever."""

        async def purge(self, *_: object, **__: object) -> int:
            return await asyncio.Event().wait()

    failed = asyncio.Event()
    janitor = CleanupJob(
        Locked(),  # type: ignore[arg-type]  # one verb is all it needs
        retention=DAY,
        batch=10,
        clock=FakeClock(),
        counted=lambda outcome, _: failed.set() if outcome == "failed" else None,
        patience=0.001,
    )
    running = asyncio.create_task(janitor.run(every=3600))
    await asyncio.wait_for(failed.wait(), 10)
    running.cancel()
