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
DAY = timedelta(days=1)
ROUNDING = timedelta(microseconds=5)


class Database:
    """A database clock, `ahead` of the machine's and read with a `latency`."""

    def __init__(self, machine: FakeClock, ahead: timedelta) -> None:
        self._machine = machine
        self.ahead = ahead
        self.latency = 0.0
        self.down = False
        self.readings = 0

    async def now(self) -> datetime:
        self.readings += 1
        if self.down:
            raise StoreUnavailable("postgres", "unavailable in this test")
        self._machine.advance(self.latency / 2)
        timestamp = self._machine.now() + self.ahead
        self._machine.advance(self.latency / 2)
        return timestamp


@pytest.fixture
def machine() -> FakeClock:
    return FakeClock()


@pytest.fixture
def clock(machine: FakeClock) -> SharedClock:
    return SharedClock(machine.monotonic)


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
    assert not clock.is_set


async def test_reading_delayed_by_process_suspension_is_not_used(
    clock: SharedClock, database: Database
) -> None:
    database.latency = 10.0
    with pytest.raises(StoreUnavailable):
        await ClockSync(clock, database.now).sync()
    assert not clock.is_set


async def test_before_the_first_reading_slower_ones_are_used(
    clock: SharedClock, database: Database, machine: FakeClock
) -> None:
    database.latency = 0.8
    sync = ClockSync(clock, database.now)
    await sync.sync_or_use_reference()
    assert database.readings == 3  # too slow, used, and a better one if there is
    assert clock.now() == machine.now() - HOUR


async def test_slow_first_reading_is_corrected_by_the_next(
    clock: SharedClock, machine: FakeClock
) -> None:
    delays = [3.0, 0.0]

    async def read() -> datetime:
        read_at = machine.now()
        machine.advance(delays.pop(0))
        return read_at - HOUR

    sync = ClockSync(clock, read)
    with pytest.raises(StoreUnavailable):
        await sync.sync()
    delays[:0] = [0.9]
    await sync.sync_or_use_reference()
    assert delays == []
    assert clock.now() == machine.now() - HOUR


async def test_before_the_first_reading_the_clock_has_no_time_and_sync_retries(
    clock: SharedClock, database: Database
) -> None:
    database.down = True
    running = asyncio.create_task(ClockSync(clock, database.now).run(interval=0.001))
    await wait_until(lambda: database.readings >= 3)
    with pytest.raises(StoreUnavailable, match="unavailable in this test"):
        clock.now()
    database.down = False
    await wait_until(lambda: clock.is_set)
    assert clock.now() == NOON - HOUR
    running.cancel()
    await asyncio.wait([running])


async def test_during_a_database_outage_the_clock_runs_on_and_sync_retries(
    clock: SharedClock, database: Database, machine: FakeClock
) -> None:
    sync = ClockSync(clock, database.now)
    await sync.sync()
    database.down = True
    running = asyncio.create_task(sync.run(interval=0.001))
    await wait_until(lambda: database.readings >= 4)
    assert clock.now() == NOON - HOUR
    database.down = False
    database.ahead = HOUR
    await wait_until(lambda: clock.now() == machine.now() + HOUR)
    running.cancel()
    await asyncio.wait([running])


async def test_large_correction_is_logged_once(
    clock: SharedClock, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sidegate.clock")
    sync = ClockSync(clock, database.now)
    await sync.sync()
    assert caplog.records == []
    database.ahead -= HOUR
    for _ in range(3):
        await sync.sync()
    [record] = caplog.records
    assert record.getMessage() == "clock corrected"
    assert record.__dict__["correction_seconds"] == -3600.0


class Reference:
    """A ReferenceClock a day ahead of the machine's, and read with a `latency`."""

    def __init__(self, machine: FakeClock) -> None:
        self._machine = machine
        self.latency = 0.0
        self.down = False
        self.kept: list[timedelta] = []

    async def read(self) -> tuple[datetime, timedelta | None]:
        if self.down:
            raise StoreUnavailable("redis", "unavailable in this test")
        self._machine.advance(self.latency / 2)
        time = self._machine.now() + DAY
        self._machine.advance(self.latency / 2)
        return time, self.kept[-1] if self.kept else None

    async def keep(self, difference: timedelta) -> None:
        self.kept.append(difference)


@pytest.fixture
def reference(machine: FakeClock) -> Reference:
    return Reference(machine)


async def test_reference_sets_a_clock_that_was_not_set_while_the_database_is_down(
    clock: SharedClock, database: Database, machine: FakeClock, reference: Reference
) -> None:
    database.down = True
    reference.kept = [-DAY - HOUR]
    reference.latency = 0.2
    sync = ClockSync(clock, database.now, reference=reference)
    await sync.sync_or_use_reference()
    assert clock.now() == machine.now() - HOUR
    reference.kept = [HOUR]
    await sync.sync_or_use_reference()  # it is set
    assert clock.now() == machine.now() - HOUR


@pytest.mark.parametrize("down", [True, False], ids=["down", "unknown"])
async def test_clock_stays_unset_if_the_reference_does_not_know_the_time(
    clock: SharedClock, database: Database, reference: Reference, *, down: bool
) -> None:
    database.down, reference.down = True, down
    with pytest.raises(StoreUnavailable, match="postgres"):
        await ClockSync(clock, database.now, reference=reference).sync_or_use_reference()
    assert not clock.is_set


async def test_database_that_answers_is_preferred_to_the_reference(
    clock: SharedClock, database: Database, reference: Reference
) -> None:
    reference.kept = [timedelta(0)]
    await ClockSync(clock, database.now, reference=reference).sync_or_use_reference()
    assert clock.now() == NOON - HOUR


async def test_clock_that_the_reference_has_set_follows_the_database_when_it_is_back(
    clock: SharedClock, database: Database, machine: FakeClock, reference: Reference
) -> None:
    database.down = True
    reference.kept = [timedelta(0)]
    sync = ClockSync(clock, database.now, reference=reference)
    running = asyncio.create_task(sync.run(interval=0.001))
    await wait_until(lambda: clock.is_set)
    assert clock.now() == machine.now() + DAY
    database.down = False
    await wait_until(lambda: clock.now() == machine.now() - HOUR)
    await wait_until(lambda: abs(reference.kept[-1] + DAY + HOUR) < ROUNDING)
    running.cancel()
    await asyncio.wait([running])


async def test_difference_is_kept_if_missing_or_wrong_and_also_without_the_database(
    clock: SharedClock, database: Database, reference: Reference
) -> None:
    sync = ClockSync(clock, database.now, reference=reference)
    await sync.sync()
    database.down = True
    reference.latency = 0.2
    await sync.keep_difference()
    [difference] = reference.kept
    assert abs(difference + DAY + HOUR) < ROUNDING
    for error, is_wrong in ((0.1, False), (-0.1, False), (0.2, True), (-0.2, True)):
        reference.kept = [difference + timedelta(seconds=error)]
        await sync.keep_difference()
        assert (len(reference.kept) == 2) is is_wrong
    assert abs(reference.kept[-1] - difference) < ROUNDING


async def test_difference_is_not_kept_before_the_database_has_answered(
    clock: SharedClock, database: Database, reference: Reference
) -> None:
    database.down = True
    reference.kept = [HOUR]
    sync = ClockSync(clock, database.now, reference=reference)
    await sync.sync_or_use_reference()
    reference.kept = []
    await sync.keep_difference()
    assert reference.kept == []
