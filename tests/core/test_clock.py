"""One time for all instances, whatever the clocks of their machines say."""

from datetime import datetime, timedelta

import pytest

from sidegate.core.clock import SharedClock, SystemClock
from tests.support.clock import NOON, FakeClock

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


class Machine(FakeClock):
    """A machine whose wall clock can be put forward or back."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.wrong


def test_until_it_is_told_it_shows_its_machines_time() -> None:
    machine = Machine()
    machine.wrong = HOUR
    clock = SharedClock(machine)
    machine.advance(SECOND)
    assert clock.now() == NOON + HOUR + SECOND


def at_once(machine: Machine) -> tuple[float, float]:
    """Asked and told at the same moment."""
    return machine.monotonic(), machine.monotonic()


def test_it_goes_on_from_what_it_was_told() -> None:
    machine = Machine()
    machine.wrong = HOUR
    clock = SharedClock(machine)
    jump = clock.told(NOON, between=at_once(machine))
    machine.advance(SECOND)
    assert jump == pytest.approx(-3600)
    assert clock.now() == NOON + SECOND


@pytest.mark.parametrize("wrong", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_machine_whose_clock_is_put_wrong_changes_nothing(wrong: timedelta) -> None:
    machine = Machine()
    clock = SharedClock(machine)
    machine.wrong = wrong
    machine.advance(SECOND)
    assert clock.now() == NOON + SECOND


def test_what_was_said_a_moment_ago_counts_from_then() -> None:
    machine = Machine()
    clock = SharedClock(machine)
    asked = machine.monotonic()
    machine.advance(2 * SECOND)
    clock.told(NOON + HOUR, between=(asked, machine.monotonic()))
    assert clock.now() == NOON + HOUR + SECOND


def test_two_clocks_that_agree_as_well_as_clocks_do_are_left_alone() -> None:
    machine = Machine()
    clock = SharedClock(machine)
    jump = clock.told(NOON + timedelta(milliseconds=20), between=at_once(machine))
    assert jump == 0
    assert clock.now() == NOON


def test_who_was_told_slowly_does_not_know_the_difference() -> None:
    machine = Machine()
    clock = SharedClock(machine)
    asked = machine.monotonic()
    machine.advance(SECOND / 5)
    jump = clock.told(NOON, between=(asked, machine.monotonic()))  # said at once, heard late
    assert jump == 0
    assert clock.now() == NOON + SECOND / 5


def test_ages_are_the_machines() -> None:
    machine = Machine()
    assert SharedClock(machine).monotonic() == machine.monotonic()


def test_the_machines_own_clock_does_for_it() -> None:
    system = SystemClock()
    assert abs(SharedClock(system).now() - system.now()) < timedelta(minutes=1)
