"""Analytics: sample all sessions once per interval, and report from the samples.

Requests read samples only. Reading every session is done in the background, by one instance at a
time, which the durable store elects.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, NoReturn

from sidegate.core.analytics import SAMPLE_RETENTION, WINDOWS, Report, Sample, build_report
from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import AnalyticsStore
from sidegate.core.timeouts import with_timeout
from sidegate.services.job_outage import watch_job

# Ended sessions found by one scan. Each scan reads every session, so a backlog must need few.
_SCAN_LIMIT: Final = 50_000
_BATCH_SIZE: Final = 1000
# Seconds between two batches, so that a large backlog leaves the store to other clients.
_BATCH_PAUSE: Final = 0.01
# Samples deleted per sample taken: after a clock jumps ahead, not all of them are too old.
_MAX_DELETED: Final = 5
# Seconds for one round: many more than it takes to count ten million sessions. A backlog that
# takes longer is continued in the next round.
_TIMEOUT: Final = 60.0


class Analytics:
    """Takes samples in turn with other instances, and reports from all of them."""

    def __init__(
        self,
        store: AnalyticsStore,
        *,
        interval: timedelta,
        clock: Clock,
        count: Callable[[str], None],
        on_report: Callable[[Report], None],
    ) -> None:
        """Call `count` with `taken` or `failed`, and `on_report` once per round."""
        self._store = store
        self._interval = interval
        self._clock = clock
        self._count = count
        self._on_report = on_report
        self._outage = watch_job("analytics", clock)

    async def run(self, *, sampling: bool = True) -> NoReturn:
        """Run a round each interval until cancelled; retry a failed one at the next.

        Without `sampling`, only publish reports of the samples that other instances take.
        """
        while True:
            try:
                await with_timeout(self._run_round(sampling=sampling), _TIMEOUT, store="durable")
            except (StoreUnavailable, UnreadableRecord) as error:
                self._count("failed")
                self._outage.record_failure(error)
            else:
                self._outage.record_success()
            await asyncio.sleep(self._interval.total_seconds())

    async def _run_round(self, *, sampling: bool) -> None:
        if sampling:
            await self.sample()
        await self.publish()

    async def sample(self) -> bool:
        """Take a sample if one is due. Return whether one was taken."""
        started_at = self._clock.now()
        if not await self._store.reserve_sample(started_at, self._interval):
            return False
        await _repeat(
            lambda limit: self._store.record_expired(started_at, limit=limit), _SCAN_LIMIT
        )
        await _repeat(lambda limit: self._store.add_to_totals(limit=limit), _BATCH_SIZE)
        at = self._clock.now()
        active = await self._store.count_active(at)
        await self._store.save_sample(Sample(at, active, await self._store.read_totals()))
        await self._store.delete_samples(at - SAMPLE_RETENTION, limit=_MAX_DELETED)
        self._count("taken")
        return True

    async def publish(self) -> None:
        """Pass the current report to `on_report`. Before the first sample, do nothing."""
        current = await self.read_report()
        if current is not None:
            self._on_report(current)

    async def read_report(self) -> Report | None:
        """Return the report up to the last sample, or None before the first sample."""
        last = await self._store.read_last_sample()
        if last is None:
            return None
        windows = {}
        for name, length in WINDOWS.items():
            window = await self._store.read_window(last.at - length, last.at)
            if window is None:  # all samples were deleted meanwhile
                return None
            windows[name] = window
        return build_report(last, windows)


async def _repeat(step: Callable[[int], Awaitable[int]], limit: int) -> None:
    """Run `step` until it handles fewer than `limit` rows."""
    while True:
        if await step(limit) < limit:
            return
        await asyncio.sleep(_BATCH_PAUSE)
