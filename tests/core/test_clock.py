"""The shared clock is independent of the local wall clock."""

from datetime import UTC, datetime, timedelta

import pytest

from sidegate.core.clock import SharedClock, SystemClock
from sidegate.core.errors import StoreUnavailable
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


def test_clock_has_no_time_until_it_is_set() -> None:
    local = LocalClock()
    clock = SharedClock(local.monotonic)
    clock.unset_reason = "postgres is unavailable: connection refused"
    with pytest.raises(StoreUnavailable, match=r"^clock is unavailable: .*connection refused$"):
        clock.now()
    assert clock.set_time(NOON + HOUR, between=no_round_trip(local)) == 0.0
    assert clock.now() == NOON + HOUR


def test_first_time_is_set_however_slowly_it_was_read() -> None:
    local = LocalClock()
    clock = SharedClock(local.monotonic)
    sent = local.monotonic()
    local.advance(HOUR)
    clock.set_time(NOON, between=(sent, local.monotonic()))
    assert clock.now() == NOON + HOUR / 2


def build_clock(local: LocalClock) -> SharedClock:
    """Return a clock that was set to the local wall time."""
    clock = SharedClock(local.monotonic)
    clock.set_time(local.now(), between=no_round_trip(local))
    return clock


def no_round_trip(local: LocalClock) -> tuple[float, float]:
    """Return the times of a round trip without duration."""
    return local.monotonic(), local.monotonic()


def test_clock_advances_from_the_time_set() -> None:
    local = LocalClock()
    local.error = HOUR
    clock = build_clock(local)
    adjustment = clock.set_time(NOON, between=no_round_trip(local))
    local.advance(SECOND)
    assert adjustment == pytest.approx(-3600)
    assert clock.now() == NOON + SECOND


@pytest.mark.parametrize("error", [HOUR, -HOUR], ids=["forward", "back"])
def test_change_of_the_local_wall_clock_has_no_effect(error: timedelta) -> None:
    local = LocalClock()
    clock = build_clock(local)
    local.error = error
    local.advance(SECOND)
    assert clock.now() == NOON + SECOND


def test_time_counts_from_the_middle_of_the_round_trip() -> None:
    local = LocalClock()
    clock = build_clock(local)
    sent = local.monotonic()
    local.advance(2 * SECOND)
    clock.set_time(NOON + HOUR, between=(sent, local.monotonic()))
    assert clock.now() == NOON + HOUR + SECOND


def test_difference_below_the_minimum_is_not_adjusted() -> None:
    local = LocalClock()
    clock = build_clock(local)
    adjustment = clock.set_time(NOON + timedelta(milliseconds=20), between=no_round_trip(local))
    assert adjustment == 0
    assert clock.now() == NOON


def test_difference_within_a_slow_round_trip_is_not_adjusted() -> None:
    local = LocalClock()
    clock = build_clock(local)
    sent = local.monotonic()
    local.advance(SECOND / 5)
    adjustment = clock.set_time(NOON, between=(sent, local.monotonic()))  # read at the start
    assert adjustment == 0
    assert clock.now() == NOON + SECOND / 5


def test_monotonic_time_is_the_local_one() -> None:
    local = LocalClock()
    assert SharedClock(local.monotonic).monotonic() == local.monotonic()


def test_clock_works_with_the_system_clock() -> None:
    system = SystemClock()
    clock = SharedClock(system.monotonic)
    at = system.monotonic()
    clock.set_time(datetime(1970, 1, 1, tzinfo=UTC), between=(at, at))
    assert clock.now() - datetime(1970, 1, 1, tzinfo=UTC) < timedelta(minutes=1)
