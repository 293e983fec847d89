"""When the breaker opens, whom it lets through, and how it closes."""

from sidegate.stores.client.circuit_breaker import BreakerState, CircuitBreaker
from tests.support.clock import FakeClock

OPEN, HALF_OPEN, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED


def a_breaker(clock: FakeClock, *, jitter: float = 0.5) -> CircuitBreaker:
    return CircuitBreaker(failures=5, probe_every=0.25, clock=clock, jitter=lambda: jitter)


def an_open_one(clock: FakeClock, *, jitter: float = 0.5) -> CircuitBreaker:
    breaker = a_breaker(clock, jitter=jitter)
    for _ in range(5):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_it_opens_after_five_failures_in_a_row() -> None:
    breaker = a_breaker(FakeClock())
    for _ in range(4):
        breaker.failed()
        assert breaker.state is CLOSED
    breaker.failed()
    assert breaker.state is OPEN


def test_failures_with_a_success_between_them_are_not_in_a_row() -> None:
    breaker = a_breaker(FakeClock())
    for _ in range(10):
        for _ in range(4):
            breaker.failed()
        breaker.succeeded()
    assert breaker.state is CLOSED
    assert breaker.admits()


def test_while_it_is_open_nobody_is_admitted() -> None:
    clock = FakeClock()
    breaker = an_open_one(clock)
    clock.advance(0.249)
    assert not any(breaker.admits() for _ in range(100))
    assert breaker.state is OPEN


def test_when_a_probe_is_due_one_is_admitted() -> None:
    clock = FakeClock()
    breaker = an_open_one(clock)
    clock.advance(0.25)
    assert [breaker.admits() for _ in range(100)].count(True) == 1
    assert breaker.state is HALF_OPEN


def test_a_probe_that_succeeds_closes_it() -> None:
    clock = FakeClock()
    breaker = an_open_one(clock)
    clock.advance(0.25)
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.state is CLOSED
    assert all(breaker.admits() for _ in range(100))


def test_after_it_closed_it_takes_five_failures_again() -> None:
    clock = FakeClock()
    breaker = an_open_one(clock)
    clock.advance(0.25)
    assert breaker.admits()
    breaker.succeeded()
    for _ in range(4):
        breaker.failed()
    assert breaker.state is CLOSED


def test_a_probe_that_fails_opens_it_until_the_next_is_due() -> None:
    clock = FakeClock()
    breaker = an_open_one(clock)
    clock.advance(0.25)
    assert breaker.admits()
    breaker.failed()
    assert breaker.state is OPEN
    assert not breaker.admits()
    clock.advance(0.25)
    assert breaker.admits()


def test_a_long_outage_is_probed_once_in_each_interval() -> None:
    clock = FakeClock()
    breaker = an_open_one(clock)
    probes = 0
    for _ in range(10_000):  # ten seconds, asked each millisecond
        clock.advance(0.001)
        if breaker.admits():
            probes += 1
            breaker.failed()
    assert 38 <= probes <= 40


def test_a_probe_that_never_reports_back_blocks_nobody() -> None:
    clock = FakeClock()
    breaker = an_open_one(clock)
    clock.advance(0.25)
    assert breaker.admits()
    assert not breaker.admits()
    clock.advance(0.25)
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.state is CLOSED


def test_stragglers_that_fail_late_do_not_put_off_the_probe() -> None:
    clock = FakeClock()
    breaker = an_open_one(clock)
    clock.advance(0.2)
    breaker.failed()
    clock.advance(0.05)
    assert breaker.admits()


def test_instances_that_lost_the_store_together_probe_apart() -> None:
    due = []
    for jitter in (0.0, 0.5, 1.0):
        clock = FakeClock()
        breaker = an_open_one(clock, jitter=jitter)
        start = clock.monotonic()
        while not breaker.admits():
            clock.advance(0.0625)  # a quarter of it, which floats and microseconds hold exactly
        due.append((clock.monotonic() - start) / 0.25)
    assert due == [0.75, 1.0, 1.25]
