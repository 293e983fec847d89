"""Each reason why a store refuses connections is logged once."""

import logging

import pytest

from sidegate.stores.connection_log import ConnectionLog
from tests.support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> ConnectionLog:
    caplog.set_level(logging.INFO, "sidegate.stores")
    return ConnectionLog("redis", monotonic=clock.monotonic)


def read_events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, ...]]:
    """Return the events with address and reason, and clear them."""
    events = []
    for record in caplog.records:
        fields = vars(record)
        values = (fields.get("address"), fields.get("reason"), fields.get("outage_seconds"))
        events.append((record.msg, *(str(value) for value in values if value is not None)))
    caplog.clear()
    return events


def test_each_reason_is_logged_once_in_an_outage(
    log: ConnectionLog, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        log.record_failure("a:1", "refused")
        log.record_failure("a:1", "no answer")
        log.record_failure("b:1", "refused")
        clock.advance(600)
    assert read_events(caplog) == [
        ("store connection failed", "a:1", "refused"),
        ("store connection failed", "a:1", "no answer"),
        ("store connection failed", "b:1", "refused"),
    ]
    log.record_success("a:1")
    log.record_success("a:1")
    assert read_events(caplog) == [("store connection restored", "a:1", "1800.0")]


def test_success_without_a_failure_is_not_logged(
    log: ConnectionLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.record_success("a:1")
    assert read_events(caplog) == []


def test_address_that_flaps_is_logged_once_a_minute(
    log: ConnectionLog, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(120):
        log.record_failure("a:1", "refused")
        log.record_success("a:1")
        clock.advance(1)
    failed, restored = "store connection failed", "store connection restored"
    assert [event[0] for event in read_events(caplog)] == [failed, restored, failed, restored]


def test_reasons_that_differ_each_time_are_not_all_logged(
    log: ConnectionLog, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        log.record_failure("a:1", f"refused {number}")
        clock.advance(1)
    assert len(read_events(caplog)) == 8


def test_denied_permission_is_logged_once_an_hour(
    log: ConnectionLog, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(62):
        log.record_denial("NOPERM get")
        clock.advance(60)
    log.record_denial("NOPERM set")
    assert read_events(caplog) == [
        ("store permission denied", "NOPERM get"),
        ("store permission denied", "NOPERM get"),
        ("store permission denied", "NOPERM set"),
    ]
