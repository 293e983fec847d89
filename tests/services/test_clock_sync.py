"""Clock synchronization with the database."""

import asyncio
import logging
from datetime import datetime, timedelta

import pytest

from sidegate.core.clock import SharedClock
from sidegate.core.errors import StoreUnavailable
from sidegate.services.clock_sync import ClockSync
from tests.stores.waiting import wait_until
from tests.support.clock import NOON, FakeClock

HOUR = timedelta(hours=1)


class Database:
    """A database clock, `ahead` of the machine's and read with a `latency`."""

    def __init__(self, machine: FakeClock, ahead: timedelta) -> None:
        self._machine = machine
        self._ahead = ahead
        self.latency = 0.0
        self.down = False
        self.readings = 0

    async def now(self) -> datetime:
        self.readings += 1
        if self.down:
            raise StoreUnavailable("postgres", "unavailable in this test")
        self._machine.advance(self.latency / 2)
        timestamp = self._machine.now() + self._ahead
        self._machine.advance(self.latency / 2)
        return timestamp


@pytest.fixture
def machine() -> FakeClock:
    return FakeClock()


@pytest.fixture
def clock(machine: FakeClock) -> SharedClock:
    return SharedClock(machine)


@pytest.fixture
def database(machine: FakeClock) -> Database:
    return Database(machine, ahead=-HOUR)


async def test_machine_an_hour_ahead_follows_the_database_clock(
    clock: SharedClock, database: Database
) -> None:
    await ClockSync(clock, database.now).sync()
    assert clock.now() == NOON - HOUR


async def test_half_the_round_trip_is_added_to_the_reading(
    clock: SharedClock, database: Database
) -> None:
    database.latency = 0.2
    await ClockSync(clock, database.now).sync()
    assert clock.now() == NOON - HOUR + timedelta(seconds=0.2)


async def test_reading_that_times_out_is_not_used(clock: SharedClock) -> None:
    async def never() -> datetime:
        await asyncio.Event().wait()
        return NOON + HOUR

    with pytest.raises(StoreUnavailable):
        await ClockSync(clock, never).sync()
    assert clock.now() == NOON


async def test_reading_delayed_by_process_suspension_is_not_used(
    clock: SharedClock, database: Database, machine: FakeClock
) -> None:
    database.latency = 10.0
    with pytest.raises(StoreUnavailable):
        await ClockSync(clock, database.now).sync()
    assert clock.now() == machine.now()


async def test_during_a_database_outage_the_clock_runs_on_and_sync_retries(
    clock: SharedClock, database: Database
) -> None:
    database.down = True
    running = asyncio.create_task(ClockSync(clock, database.now).run(interval=0.001))
    await wait_until(lambda: database.readings >= 3)
    assert clock.now() == NOON
    database.down = False
    await wait_until(lambda: clock.now() == NOON - HOUR)
    running.cancel()
    await asyncio.wait([running])


async def test_large_correction_is_logged_once(
    clock: SharedClock, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sidegate.clock")
    sync = ClockSync(clock, database.now)
    for _ in range(3):
        await sync.sync()
    [record] = caplog.records
    assert record.getMessage() == "clock corrected"
    assert record.__dict__["correction_seconds"] == -3600.0
