"""When the circuit breaker opens, which requests it allows, and how it closes."""

from collections.abc import Callable
from typing import Final

import pytest

from sidegate.stores.client.circuit_breaker import BreakerState, CircuitBreaker
from tests.support.clock import FakeClock

OPEN, HALF_OPEN, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED

PROBE_INTERVAL: Final = 0.25

Step = Callable[[CircuitBreaker, FakeClock], object]


def build_breaker(clock: FakeClock, *, jitter: float = 0.5) -> CircuitBreaker:
    return CircuitBreaker(
        failure_threshold=5, probe_interval=PROBE_INTERVAL, clock=clock, jitter=lambda: jitter
    )


def build_open_breaker(clock: FakeClock, *, jitter: float = 0.5) -> CircuitBreaker:
    breaker = build_breaker(clock, jitter=jitter)
    for step in OPENED:
        step(breaker, clock)
    return breaker


def request(breaker: CircuitBreaker, _: FakeClock) -> None:
    assert breaker.allow_request()


def succeed(breaker: CircuitBreaker, _: FakeClock) -> None:
    breaker.record_success()


def fail(breaker: CircuitBreaker, _: FakeClock) -> None:
    breaker.record_failure()


def wait(seconds: float) -> Step:
    return lambda _, clock: clock.advance(seconds)


OPENED: Final = [request, fail] * 5
PROBED: Final = [*OPENED, wait(PROBE_INTERVAL), request]


@pytest.mark.parametrize(
    ("steps", "allowed", "state"),
    [
        pytest.param([], 100, CLOSED, id="new"),
        *(pytest.param([fail] * n, 100, CLOSED, id=f"{n} failures") for n in range(1, 5)),
        pytest.param([fail] * 5, 0, OPEN, id="5 failures"),
        pytest.param([*[fail] * 4, succeed] * 10, 100, CLOSED, id="successes between failures"),
        pytest.param([*OPENED, wait(0.249)], 0, OPEN, id="before the probe is due"),
        pytest.param([*OPENED, wait(0.25)], 1, HALF_OPEN, id="probe due"),
        pytest.param([*OPENED, wait(0.2), fail, wait(0.05)], 1, HALF_OPEN, id="late failure"),
        pytest.param(PROBED, 0, HALF_OPEN, id="probe in flight"),
        pytest.param([*PROBED, wait(0.25)], 1, HALF_OPEN, id="probe without an outcome"),
        pytest.param(
            [*PROBED, wait(0.25), request, succeed], 100, CLOSED, id="second probe succeeded"
        ),
        pytest.param([*PROBED, succeed], 100, CLOSED, id="probe succeeded"),
        pytest.param([*PROBED, succeed, *[fail] * 4], 100, CLOSED, id="4 failures after closing"),
        pytest.param([*PROBED, fail], 0, OPEN, id="probe failed"),
        pytest.param([*PROBED, fail, wait(0.25)], 1, HALF_OPEN, id="next probe due"),
    ],
)
def test_state_and_allowed_requests_of_the_next_hundred(
    steps: list[Step], allowed: int, state: BreakerState
) -> None:
    clock = FakeClock()
    breaker = build_breaker(clock)
    for step in steps:
        step(breaker, clock)
    assert [breaker.allow_request() for _ in range(100)].count(True) == allowed
    assert breaker.state is state


def test_long_outage_is_probed_once_in_each_interval() -> None:
    clock = FakeClock()
    breaker = build_open_breaker(clock)
    probes = 0
    for _ in range(10_000):  # ten seconds, with a request each millisecond
        clock.advance(0.001)
        if breaker.allow_request():
            probes += 1
            breaker.record_failure()
    assert 38 <= probes <= 40


def test_jitter_spreads_the_probes_of_several_instances() -> None:
    due = []
    for jitter in (0.0, 0.5, 1.0):
        clock = FakeClock()
        breaker = build_open_breaker(clock, jitter=jitter)
        start = clock.monotonic()
        while not breaker.allow_request():
            clock.advance(0.0625)  # a quarter of it, which floats and microseconds hold exactly
        due.append((clock.monotonic() - start) / PROBE_INTERVAL)
    assert due == [0.75, 1.0, 1.25]


def test_outage_lasts_from_the_failure_that_opens_to_the_success_that_closes() -> None:
    clock = FakeClock()
    breaker = build_breaker(clock)
    assert [breaker.record_failure() for _ in range(7)] == [False] * 4 + [True] + [False] * 2
    clock.advance(60)
    assert breaker.allow_request()
    assert [breaker.record_success() for _ in range(2)] == [60, None]
