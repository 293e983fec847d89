"""An outage: when it is reported."""

from sidegate.core.errors import OutcomeUnknown, StoreUnavailable, UnreadableRecord
from sidegate.core.outage import Outage
from tests.support.clock import FakeClock


class RecordedOutage:
    """An outage and its reports: the reason of a start, the seconds at an end."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reports: list[str | float] = []
        report = self.reports.append
        self.outage = Outage(clock=self.clock, on_start=report, on_end=report)

    def fail(self, *errors: Exception) -> None:
        for error in errors:
            self.outage.record_failure(error)
            self.clock.advance(1)

    def succeed(self) -> None:
        self.outage.record_success()


def test_repeated_failure_is_reported_once() -> None:
    recorded = RecordedOutage()
    recorded.fail(StoreUnavailable("redis", "refused"), OutcomeUnknown("redis", "reset"))
    recorded.fail(StoreUnavailable("redis", "no answer"))
    assert recorded.reports == ["refused"]


def test_first_success_reports_the_end_with_its_duration() -> None:
    recorded = RecordedOutage()
    recorded.fail(*[StoreUnavailable("redis", "refused")] * 3)
    for _ in range(3):
        recorded.succeed()
    assert recorded.reports == ["refused", 3.0]


def test_success_without_an_outage_is_not_reported() -> None:
    recorded = RecordedOutage()
    recorded.succeed()
    assert recorded.reports == []


def test_second_outage_is_reported_anew() -> None:
    recorded = RecordedOutage()
    for _ in range(2):
        recorded.fail(StoreUnavailable("redis", "refused"))
        recorded.succeed()
    assert recorded.reports == ["refused", 1.0, "refused", 1.0]


def test_error_of_another_kind_during_an_outage_is_reported_too() -> None:
    recorded = RecordedOutage()
    recorded.fail(StoreUnavailable("postgres", "refused"), UnreadableRecord("event 7"))
    recorded.fail(UnreadableRecord("event 7"))
    recorded.succeed()
    assert recorded.reports == ["refused", "event 7", 3.0]
