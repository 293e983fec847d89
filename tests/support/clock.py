"""A clock that only tests advance."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sidegate.core.errors import StoreUnavailable

NOON: Final = datetime(2026, 3, 4, 12, 0, 0, 123_456, tzinfo=UTC)
"""The time at the start of a test; its microseconds show whether a store rounds."""


class FakeClock:
    """A Clock whose readings change together, and only through `advance`.

    While `is_set` is False it has no time, as a SharedClock before the database has answered.
    """

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now
        self._monotonic = 1000.0
        self.is_set = True

    def now(self) -> datetime:
        if not self.is_set:
            raise StoreUnavailable("clock", "not set in this test")
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: timedelta | float) -> datetime:
        """Advance both readings (a number is in seconds) and return the new wall time."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        self._now += step
        self._monotonic += step.total_seconds()
        return self._now
