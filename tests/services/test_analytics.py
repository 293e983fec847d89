"""Analytics: sampling by one instance at a time, reports, retries."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.actor import Actor
from sidegate.core.analytics import ActiveSessions, Cause, Report, Sample, Totals
from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.session_type import SessionType
from sidegate.services.analytics import Analytics
from sidegate.stores.sqlite.analytics import SqliteAnalytics
from sidegate.stores.sqlite.database import SqliteDatabase
from sidegate.stores.sqlite.sessions import SqliteSessions
from tests.contracts.values import build_record, build_session
from tests.support.clock import NOON, FakeClock

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
WEB = SessionType.WEB


class FlakyAnalytics(SqliteAnalytics):
    """A real store that can be unavailable at one step."""

    unavailable_at: str | None = None

    def _fail_at(self, step: str) -> None:
        if self.unavailable_at == step:
            raise StoreUnavailable("sqlite", "unavailable in this test")

    async def add_to_totals(self, *, limit: int) -> int:
        self._fail_at("add_to_totals")
        return await super().add_to_totals(limit=limit)

    async def read_totals(self) -> Totals:
        self._fail_at("read_totals")
        return await super().read_totals()

    async def save_sample(self, sample: Sample) -> None:
        self._fail_at("save_sample")
        await super().save_sample(sample)

    async def read_last_sample(self) -> Sample | None:
        self._fail_at("read_last_sample")
        return await super().read_last_sample()


@dataclass
class Deployment:
    store: SqliteSessions
    analytics_store: FlakyAnalytics
    clock: FakeClock = field(default_factory=FakeClock)
    outcomes: Counter[str] = field(default_factory=Counter)
    reports: list[Report] = field(default_factory=list)
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    def analytics(self, every: timedelta = MINUTE) -> Analytics:
        """Return the analytics service of one more instance."""

        def count(outcome: str) -> None:
            self.outcomes[outcome] += 1
            self.progress.set()

        def add_report(report: Report) -> None:
            self.reports.append(report)
            self.progress.set()

        return Analytics(
            self.analytics_store,
            interval=every,
            clock=self.clock,
            count=count,
            on_report=add_report,
        )

    async def create(self, number: int = 1, user_id: str = "ada") -> None:
        for _ in range(number):
            await self.store.create(
                build_record(build_session(at=self.clock.now(), user_id=user_id))
            )

    async def revoke(self, user_id: str = "ada") -> None:
        condition, by = Condition(user_id), Actor("key:ops")
        await self.store.revoke_where(
            condition, at=self.clock.now(), by=by, reason="bye", limit=1000
        )

    async def sample_and_report(self, analytics: Analytics) -> Report:
        """Take a sample and return the report."""
        assert await analytics.sample()
        report = await analytics.read_report()
        assert report is not None
        return report

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not done():
                self.progress.clear()
                await self.progress.wait()


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    file = await SqliteDatabase.open(tmp_path / "sidegate.db")
    yield Deployment(SqliteSessions(file), FlakyAnalytics(file))
    await file.close()


async def test_before_the_first_sample_there_is_no_report(deployment: Deployment) -> None:
    assert await deployment.analytics().read_report() is None


async def test_first_sample_counts_active_sessions_but_no_events(deployment: Deployment) -> None:
    await deployment.create(2)
    report = await deployment.sample_and_report(deployment.analytics())
    assert report.as_of == NOON
    assert report.active[WEB] == 2
    assert report.windows["7d"].since == NOON
    assert report.windows["7d"].created[WEB] == 0


async def test_events_between_two_samples_are_reported(deployment: Deployment) -> None:
    analytics = deployment.analytics()
    await deployment.sample_and_report(analytics)
    await deployment.create(3)
    deployment.clock.advance(MINUTE)
    await deployment.create(user_id="bob")
    await deployment.revoke("bob")
    report = await deployment.sample_and_report(analytics)
    hour = report.windows["1h"]
    assert (report.active[WEB], report.users) == (3, 1)
    assert hour.created[WEB] == 4
    assert (hour.ended_by_cause[Cause.REVOKED], hour.ended_by_type[WEB]) == (1, 1)
    assert (hour.peak, hour.peak_at) == (3, NOON + MINUTE)


async def test_sessions_that_went_idle_since_the_last_sample_are_counted(
    deployment: Deployment,
) -> None:
    analytics = deployment.analytics()
    await deployment.sample_and_report(analytics)
    await deployment.create(2)
    deployment.clock.advance(HOUR)
    day = (await deployment.sample_and_report(analytics)).windows["24h"]
    assert day.ended_by_cause[Cause.IDLE] == 2
    assert day.durations.average == 1800


async def test_events_before_a_window_are_not_in_it(deployment: Deployment) -> None:
    analytics = deployment.analytics()
    await deployment.sample_and_report(analytics)
    await deployment.create(5)
    deployment.clock.advance(MINUTE)
    await deployment.sample_and_report(analytics)
    deployment.clock.advance(HOUR)
    report = await deployment.sample_and_report(analytics)
    assert report.windows["1h"].since == NOON + MINUTE
    assert report.windows["1h"].created[WEB] == 0
    assert report.windows["1h"].peak == 5
    assert report.windows["24h"].created[WEB] == 5


async def test_no_sample_is_taken_before_it_is_due(deployment: Deployment) -> None:
    first, second = deployment.analytics(), deployment.analytics()
    assert await first.sample()
    assert not await second.sample()
    deployment.clock.advance(MINUTE)
    assert await second.sample()
    assert not await first.sample()


async def test_concurrent_instances_take_one_sample(deployment: Deployment) -> None:
    taken = await asyncio.gather(*(deployment.analytics().sample() for _ in range(5)))
    assert sorted(taken) == [False] * 4 + [True]


async def test_instance_without_sampling_reports_samples_of_other_instances(
    deployment: Deployment,
) -> None:
    await deployment.create(2)
    await deployment.sample_and_report(deployment.analytics())
    deployment.clock.advance(HOUR)
    following = deployment.analytics(timedelta(milliseconds=1)).run(sampling=False)
    running = asyncio.create_task(following)
    await deployment.until(lambda: bool(deployment.reports))
    running.cancel()
    assert deployment.reports[0].active[WEB] == 2
    assert deployment.outcomes == {"taken": 1}


@pytest.mark.parametrize("step", ["add_to_totals", "read_totals", "save_sample"])
async def test_sample_that_fails_half_way_loses_nothing_and_counts_nothing_twice(
    deployment: Deployment, step: str
) -> None:
    analytics = deployment.analytics()
    await deployment.sample_and_report(analytics)
    await deployment.create(2)
    await deployment.revoke()
    await deployment.create(1)
    deployment.clock.advance(HOUR)
    deployment.analytics_store.unavailable_at = step
    with pytest.raises(StoreUnavailable):
        await analytics.sample()
    deployment.analytics_store.unavailable_at = None
    deployment.clock.advance(MINUTE)
    day = (await deployment.sample_and_report(analytics)).windows["24h"]
    assert day.created[WEB] == 3
    assert (day.ended_by_cause[Cause.REVOKED], day.ended_by_cause[Cause.IDLE]) == (2, 1)


async def test_backlog_is_processed_before_the_sample(deployment: Deployment) -> None:
    analytics = deployment.analytics()
    await deployment.sample_and_report(analytics)
    await deployment.create(1100)
    await deployment.revoke()
    deployment.clock.advance(HOUR)
    hour = (await deployment.sample_and_report(analytics)).windows["1h"]
    assert hour.created[WEB] == 1100
    assert hour.ended_by_type[WEB] == 1100


async def test_samples_are_kept_for_eight_days(deployment: Deployment) -> None:
    analytics = deployment.analytics()
    await deployment.sample_and_report(analytics)
    deployment.clock.advance(timedelta(days=8))
    await deployment.sample_and_report(analytics)
    deployment.clock.advance(MINUTE)
    await deployment.sample_and_report(analytics)
    first = await deployment.analytics_store.read_window(NOON, deployment.clock.now())
    assert first is not None
    assert first.first.at == NOON + timedelta(days=8)


async def test_clock_jump_does_not_delete_all_samples(deployment: Deployment) -> None:
    analytics = deployment.analytics()
    for _ in range(10):
        await deployment.sample_and_report(analytics)
        deployment.clock.advance(MINUTE)
    before_jump = deployment.clock.now()
    deployment.clock.advance(timedelta(days=300))
    await deployment.sample_and_report(analytics)
    deployment.clock.advance(before_jump - deployment.clock.now())
    hour = (await deployment.sample_and_report(analytics)).windows["1h"]
    assert hour.since < before_jump


async def test_rounds_continue_after_an_outage(deployment: Deployment) -> None:
    deployment.analytics_store.unavailable_at = "read_last_sample"
    running = asyncio.create_task(deployment.analytics(timedelta(milliseconds=1)).run())
    await deployment.until(lambda: deployment.outcomes["failed"] > 1)
    deployment.analytics_store.unavailable_at = None
    await deployment.until(lambda: bool(deployment.reports))
    running.cancel()
    assert deployment.reports[0].active == dict.fromkeys(SessionType, 0)


async def test_active_session_is_in_every_sample_until_it_ends(deployment: Deployment) -> None:
    await deployment.create()
    analytics = deployment.analytics()
    found = []
    for _ in range(3):
        found.append((await deployment.sample_and_report(analytics)).active[WEB])
        deployment.clock.advance(15 * MINUTE)
    assert found == [1, 1, 0]
    assert await deployment.analytics_store.count_active(NOON) == ActiveSessions({WEB: 1}, users=1)
