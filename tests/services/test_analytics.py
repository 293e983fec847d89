"""Samples are taken by one instance at a time, reports tell what they say, and outages pass."""

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
from tests.contracts.values import a_record, a_session
from tests.support.clock import NOON, FakeClock

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
WEB = SessionType.WEB


class Counts(SqliteAnalytics):
    """Real counts that can be away at one of their steps."""

    away_at: str | None = None

    def _may_be_away(self, step: str) -> None:
        if self.away_at == step:
            raise StoreUnavailable("sqlite", "told to be away")

    async def add_up(self, *, limit: int) -> int:
        self._may_be_away("add_up")
        return await super().add_up(limit=limit)

    async def totals(self) -> Totals:
        self._may_be_away("totals")
        return await super().totals()

    async def keep(self, sample: Sample) -> None:
        self._may_be_away("keep")
        await super().keep(sample)

    async def last(self) -> Sample | None:
        self._may_be_away("last")
        return await super().last()


@dataclass
class Scene:
    store: SqliteSessions
    counts: Counts
    clock: FakeClock = field(default_factory=FakeClock)
    counted: Counter[str] = field(default_factory=Counter)
    reports: list[Report] = field(default_factory=list)
    another: asyncio.Event = field(default_factory=asyncio.Event)

    def analytics(self, every: timedelta = MINUTE) -> Analytics:
        """Return the analytics of one more instance."""

        def count(outcome: str) -> None:
            self.counted[outcome] += 1
            self.another.set()

        def tell(report: Report) -> None:
            self.reports.append(report)
            self.another.set()

        return Analytics(self.counts, every=every, clock=self.clock, counted=count, told=tell)

    async def begin(self, number: int = 1, user_id: str = "ada") -> None:
        for _ in range(number):
            await self.store.create(a_record(a_session(at=self.clock.now(), user_id=user_id)))

    async def revoke(self, user_id: str = "ada") -> None:
        condition, by = Condition(user_id), Actor("key:ops")
        await self.store.revoke_where(
            condition, at=self.clock.now(), by=by, reason="bye", limit=1000
        )

    async def sampled(self, analytics: Analytics) -> Report:
        """Take a sample and return what is reported."""
        assert await analytics.sample()
        report = await analytics.report()
        assert report is not None
        return report

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not done():
                self.another.clear()
                await self.another.wait()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    file = await SqliteDatabase.open(tmp_path / "sidegate.db")
    yield Scene(SqliteSessions(file), Counts(file))
    await file.close()


async def test_before_the_first_sample_there_is_nothing_to_report(scene: Scene) -> None:
    assert await scene.analytics().report() is None


async def test_the_first_sample_knows_who_lives_and_of_nothing_that_happened(scene: Scene) -> None:
    await scene.begin(2)
    report = await scene.sampled(scene.analytics())
    assert report.as_of == NOON
    assert report.active[WEB] == 2
    assert report.windows["7d"].since == NOON
    assert report.windows["7d"].created[WEB] == 0


async def test_what_happens_between_two_samples_is_reported(scene: Scene) -> None:
    analytics = scene.analytics()
    await scene.sampled(analytics)
    await scene.begin(3)
    scene.clock.advance(MINUTE)
    await scene.begin(user_id="bob")
    await scene.revoke("bob")
    report = await scene.sampled(analytics)
    hour = report.windows["1h"]
    assert (report.active[WEB], report.users) == (3, 1)
    assert hour.created[WEB] == 4
    assert (hour.ended_by_cause[Cause.REVOKED], hour.ended_by_type[WEB]) == (1, 1)
    assert (hour.peak, hour.peak_at) == (3, NOON + MINUTE)


async def test_what_ended_by_itself_since_the_last_sample_is_found(scene: Scene) -> None:
    analytics = scene.analytics()
    await scene.sampled(analytics)
    await scene.begin(2)
    scene.clock.advance(HOUR)
    day = (await scene.sampled(analytics)).windows["24h"]
    assert day.ended_by_cause[Cause.IDLE] == 2
    assert day.durations.average == 1800


async def test_what_happened_before_a_window_is_not_in_it(scene: Scene) -> None:
    analytics = scene.analytics()
    await scene.sampled(analytics)
    await scene.begin(5)
    scene.clock.advance(MINUTE)
    await scene.sampled(analytics)
    scene.clock.advance(HOUR)
    report = await scene.sampled(analytics)
    assert report.windows["1h"].since == NOON + MINUTE
    assert report.windows["1h"].created[WEB] == 0
    assert report.windows["1h"].peak == 5
    assert report.windows["24h"].created[WEB] == 5


async def test_no_sample_is_taken_before_it_is_due(scene: Scene) -> None:
    one, other = scene.analytics(), scene.analytics()
    assert await one.sample()
    assert not await other.sample()
    scene.clock.advance(MINUTE)
    assert await other.sample()
    assert not await one.sample()


async def test_instances_that_wake_together_take_one_sample(scene: Scene) -> None:
    taken = await asyncio.gather(*(scene.analytics().sample() for _ in range(5)))
    assert sorted(taken) == [False] * 4 + [True]


async def test_whoever_does_not_sample_tells_what_another_instance_has_found(scene: Scene) -> None:
    await scene.begin(2)
    await scene.sampled(scene.analytics())
    scene.clock.advance(HOUR)
    only_following = scene.analytics(timedelta(milliseconds=1)).run(sampling=False)
    running = asyncio.create_task(only_following)
    await scene.until(lambda: bool(scene.reports))
    running.cancel()
    assert scene.reports[0].active[WEB] == 2
    assert scene.counted == {"taken": 1}


@pytest.mark.parametrize("step", ["add_up", "totals", "keep"])
async def test_a_sampler_that_dies_half_way_loses_nothing_and_counts_nothing_twice(
    scene: Scene, step: str
) -> None:
    analytics = scene.analytics()
    await scene.sampled(analytics)
    await scene.begin(2)
    await scene.revoke()
    await scene.begin(1)
    scene.clock.advance(HOUR)
    scene.counts.away_at = step
    with pytest.raises(StoreUnavailable):
        await analytics.sample()
    scene.counts.away_at = None
    scene.clock.advance(MINUTE)
    day = (await scene.sampled(analytics)).windows["24h"]
    assert day.created[WEB] == 3
    assert (day.ended_by_cause[Cause.REVOKED], day.ended_by_cause[Cause.IDLE]) == (2, 1)


async def test_a_backlog_is_worked_off_before_the_sample(scene: Scene) -> None:
    analytics = scene.analytics()
    await scene.sampled(analytics)
    await scene.begin(1100)
    await scene.revoke()
    scene.clock.advance(HOUR)
    hour = (await scene.sampled(analytics)).windows["1h"]
    assert hour.created[WEB] == 1100
    assert hour.ended_by_type[WEB] == 1100


async def test_samples_are_kept_for_eight_days(scene: Scene) -> None:
    analytics = scene.analytics()
    await scene.sampled(analytics)
    scene.clock.advance(timedelta(days=8))
    await scene.sampled(analytics)
    scene.clock.advance(MINUTE)
    await scene.sampled(analytics)
    first = await scene.counts.window(NOON, scene.clock.now())
    assert first is not None
    assert first.first.at == NOON + timedelta(days=8)


async def test_a_clock_that_jumps_ahead_does_not_forget_everything(scene: Scene) -> None:
    analytics = scene.analytics()
    for _ in range(10):
        await scene.sampled(analytics)
        scene.clock.advance(MINUTE)
    right = scene.clock.now()
    scene.clock.advance(timedelta(days=300))
    await scene.sampled(analytics)
    scene.clock.advance(right - scene.clock.now())
    hour = (await scene.sampled(analytics)).windows["1h"]
    assert hour.since < right


async def test_rounds_go_on_when_the_store_is_back(scene: Scene) -> None:
    scene.counts.away_at = "last"
    running = asyncio.create_task(scene.analytics(timedelta(milliseconds=1)).run())
    await scene.until(lambda: scene.counted["failed"] > 1)
    scene.counts.away_at = None
    await scene.until(lambda: bool(scene.reports))
    running.cancel()
    assert scene.reports[0].active == dict.fromkeys(SessionType, 0)


async def test_a_session_that_lives_is_in_every_sample_until_its_end(scene: Scene) -> None:
    await scene.begin()
    analytics = scene.analytics()
    found = []
    for _ in range(3):
        found.append((await scene.sampled(analytics)).active[WEB])
        scene.clock.advance(15 * MINUTE)
    assert found == [1, 1, 0]
    assert await scene.counts.living(NOON) == ActiveSessions({WEB: 1}, users=1)
