"""Instances learn the time from where the sessions are stored."""

import asyncio
import logging
from datetime import datetime, timedelta

import pytest

from sidegate.core.clock import SharedClock
from sidegate.core.errors import StoreUnavailable
from sidegate.services.clock_sync import ClockSync
from tests.stores.waiting import until
from tests.support.clock import NOON, FakeClock

HOUR = timedelta(hours=1)


class Database:
    """Says what time it is when it is asked, `slow` seconds later, unless it is down."""

    def __init__(self, machine: FakeClock, ahead: timedelta) -> None:
        self._machine = machine
        self._ahead = ahead
        self.slow = 0.0
        self.down = False
        self.asked = 0

    async def now(self) -> datetime:
        self.asked += 1
        if self.down:
            raise StoreUnavailable("postgres", "told to be down")
        self._machine.advance(self.slow / 2)
        moment = self._machine.now() + self._ahead
        self._machine.advance(self.slow / 2)
        return moment


@pytest.fixture
def machine() -> FakeClock:
    return FakeClock()


@pytest.fixture
def clock(machine: FakeClock) -> SharedClock:
    return SharedClock(machine)


@pytest.fixture
def database(machine: FakeClock) -> Database:
    return Database(machine, ahead=-HOUR)


async def test_a_machine_that_is_an_hour_ahead_judges_by_the_databases_time(
    clock: SharedClock, database: Database
) -> None:
    await ClockSync(clock, database.now).sync()
    assert clock.now() == NOON - HOUR


async def test_the_way_to_the_database_and_back_is_taken_into_account(
    clock: SharedClock, database: Database
) -> None:
    database.slow = 0.2
    await ClockSync(clock, database.now).sync()
    assert clock.now() == NOON - HOUR + timedelta(seconds=0.2)


async def test_an_answer_that_takes_too_long_is_not_believed(clock: SharedClock) -> None:
    async def never() -> datetime:
        await asyncio.Event().wait()
        return NOON + HOUR

    with pytest.raises(StoreUnavailable):
        await ClockSync(clock, never).sync()
    assert clock.now() == NOON


async def test_an_answer_that_was_read_late_because_the_process_was_stopped_is_not_believed(
    clock: SharedClock, database: Database, machine: FakeClock
) -> None:
    database.slow = 10.0
    with pytest.raises(StoreUnavailable):
        await ClockSync(clock, database.now).sync()
    assert clock.now() == machine.now()


async def test_while_the_database_is_down_it_goes_on_and_asks_again(
    clock: SharedClock, database: Database
) -> None:
    database.down = True
    running = asyncio.create_task(ClockSync(clock, database.now).run(every=0.001))
    await until(lambda: database.asked >= 3)
    assert clock.now() == NOON
    database.down = False
    await until(lambda: clock.now() == NOON - HOUR)
    running.cancel()
    await asyncio.wait([running])


async def test_a_clock_that_is_far_off_is_told_to_the_operator_once(
    clock: SharedClock, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sidegate.clock")
    shared = ClockSync(clock, database.now)
    for _ in range(3):
        await shared.sync()
    assert [record.getMessage() for record in caplog.records] == [
        "the time here was +3600.0 s from the database's, and follows it now"
    ]
