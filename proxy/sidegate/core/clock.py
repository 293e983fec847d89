"""Clocks: wall time and monotonic time, passed as an argument to the code that needs them."""

import time
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

# Seconds. Synchronized machines agree no better than this, so smaller differences are ignored.
_MIN_ADJUSTMENT: Final = 0.05


class Clock(Protocol):
    """Two times that must not be mixed: deadlines compare `now`, ages compare `monotonic`."""

    def now(self) -> datetime:
        """Return the wall time as an aware datetime in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, time in suspend included. Never decreases."""
        ...


class SystemClock:
    """The machine's clock."""

    # Both are C functions: every check calls them, and a Python frame would double the cost.
    now = staticmethod(partial(datetime.now, UTC))

    # BOOTTIME, not MONOTONIC: a cached copy must age while the machine is suspended.
    monotonic = staticmethod(
        partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic
    )


_from_timestamp: Final = datetime.fromtimestamp  # looked up once, for the same reason


class SharedClock:
    """A clock on which all instances agree, independent of their machines' wall clocks.

    It advances with `monotonic` from the time that was set last, initially the local wall time.
    Changes of the local wall clock have no effect on it.
    """

    def __init__(self, local: Clock) -> None:
        self.monotonic = local.monotonic
        # Seconds, because every check reads this clock: datetimes would take twice as long.
        self._offset = local.now().timestamp() - local.monotonic()

    def now(self) -> datetime:
        return _from_timestamp(self._offset + self.monotonic(), UTC)

    def set_time(self, time: datetime, *, between: tuple[float, float]) -> float:
        """Set the clock to `time`, which was read between these two times of `monotonic`.

        Return the adjustment in seconds. It is 0.0, and the clock unchanged, if the difference is
        within the accuracy of two clocks and of the round trip.
        """
        sent, received = between
        offset = time.timestamp() - (sent + received) / 2
        adjustment = offset - self._offset
        if abs(adjustment) < _MIN_ADJUSTMENT + (received - sent) / 2:
            return 0.0
        self._offset = offset
        return adjustment
