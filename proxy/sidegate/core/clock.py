"""Clocks: wall time and monotonic time, passed as an argument to the code that needs them."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

from sidegate.core.errors import StoreUnavailable

MIN_ADJUSTMENT: Final = 0.05
"""Seconds. Synchronized machines agree no better than this: smaller differences are ignored."""


class Clock(Protocol):
    """Two times that must not be mixed: deadlines compare `now`, ages compare `monotonic`."""

    def now(self) -> datetime:
        """Return the wall time as an aware datetime in UTC.

        Raise StoreUnavailable("clock") if it is the database's, and not known yet.
        """
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

    It advances with `monotonic` from the time that was set last. Until a time was set it has none:
    a machine's wall clock may be wrong by hours, and would end sessions or revoke none.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self.unset_reason = "the database has not answered yet"
        # Seconds, because every check reads this clock: datetimes would take twice as long.
        self._offset = math.nan

    @property
    def is_set(self) -> bool:
        """Whether a time was set."""
        return not math.isnan(self._offset)

    def now(self) -> datetime:
        """Return the time. Raise StoreUnavailable("clock") before the first `set_time`."""
        try:  # costs nothing until it fails, as opposed to a test
            return _from_timestamp(self._offset + self.monotonic(), UTC)
        except ValueError:
            reason = f"the database's time is not known: {self.unset_reason}"
            raise StoreUnavailable("clock", reason) from None

    def set_time(self, time: datetime, *, between: tuple[float, float]) -> float:
        """Set the clock to `time`, which was read between these two times of `monotonic`.

        Return the adjustment in seconds. It is 0.0 the first time. It is also 0.0, and the clock
        unchanged, if the difference is within the accuracy of two clocks and of the round trip.
        """
        sent, received = between
        offset = time.timestamp() - (sent + received) / 2
        adjustment = offset - self._offset if self.is_set else 0.0
        if self.is_set and abs(adjustment) < MIN_ADJUSTMENT + (received - sent) / 2:
            return 0.0
        self._offset = offset
        return adjustment
