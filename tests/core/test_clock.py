"""The shared clock is independent of the local wall clock."""

from datetime import datetime, timedelta

import pytest

from sidegate.core.clock import SharedClock, SystemClock
from tests.support.clock import NOON, FakeClock

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


class LocalClock(FakeClock):
    """A clock whose wall time can be set forward or back."""

    def __init__(self) -> None:
        super().__init__()
        self.error = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.error


def test_clock_not_set_shows_the_local_wall_time() -> None:
    local = LocalClock()
    local.error = HOUR
    clock = SharedClock(local)
    local.advance(SECOND)
    assert clock.now() == NOON + HOUR + SECOND


def no_round_trip(local: LocalClock) -> tuple[float, float]:
    """Return the times of a round trip without duration."""
    return local.monotonic(), local.monotonic()


def test_clock_advances_from_the_time_set() -> None:
    local = LocalClock()
    local.error = HOUR
    clock = SharedClock(local)
    adjustment = clock.set_time(NOON, between=no_round_trip(local))
    local.advance(SECOND)
    assert adjustment == pytest.approx(-3600)
    assert clock.now() == NOON + SECOND


@pytest.mark.parametrize("error", [HOUR, -HOUR], ids=["forward", "back"])
def test_change_of_the_local_wall_clock_has_no_effect(error: timedelta) -> None:
    local = LocalClock()
    clock = SharedClock(local)
    local.error = error
    local.advance(SECOND)
    assert clock.now() == NOON + SECOND


def test_time_counts_from_the_middle_of_the_round_trip() -> None:
    local = LocalClock()
    clock = SharedClock(local)
    sent = local.monotonic()
    local.advance(2 * SECOND)
    clock.set_time(NOON + HOUR, between=(sent, local.monotonic()))
    assert clock.now() == NOON + HOUR + SECOND


def test_difference_below_the_minimum_is_not_adjusted() -> None:
    local = LocalClock()
    clock = SharedClock(local)
    adjustment = clock.set_time(NOON + timedelta(milliseconds=20), between=no_round_trip(local))
    assert adjustment == 0
    assert clock.now() == NOON


def test_difference_within_a_slow_round_trip_is_not_adjusted() -> None:
    local = LocalClock()
    clock = SharedClock(local)
    sent = local.monotonic()
    local.advance(SECOND / 5)
    adjustment = clock.set_time(NOON, between=(sent, local.monotonic()))  # read at the start
    assert adjustment == 0
    assert clock.now() == NOON + SECOND / 5


def test_monotonic_time_is_the_local_one() -> None:
    local = LocalClock()
    assert SharedClock(local).monotonic() == local.monotonic()


def test_clock_works_with_the_system_clock() -> None:
    system = SystemClock()
    assert abs(SharedClock(system).now() - system.now()) < timedelta(minutes=1)
