"""Time is an argument: whoever needs it is handed a Clock."""

import time
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

# Seconds. Two machines' clocks agree no better than this: nobody's is put right for less.
_ALIKE: Final = 0.05


class Clock(Protocol):
    """Two readings that must not be mixed: deadlines compare `now`, ages compare `monotonic`."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back, and runs while suspended."""
        ...


class SystemClock:
    """The machine's clock."""

    # Both are C to the bottom: every check reads them, and a Python frame would cost as much again.
    now = staticmethod(partial(datetime.now, UTC))

    # BOOTTIME, not MONOTONIC: a copy must age while the machine sleeps.
    monotonic = staticmethod(
        partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic
    )


_moment: Final = datetime.fromtimestamp  # looked up once, for the same reason


class SharedClock:
    """A clock that all instances read alike, whatever their machines' clocks say.

    It goes by `monotonic` from the last moment it was told, at first its own machine's: a clock
    that is put forward or back makes no session older or younger.
    """

    def __init__(self, own: Clock) -> None:
        self.monotonic = own.monotonic
        # Seconds, for each check reads this clock: with datetimes it would take twice as long.
        self._offset = own.now().timestamp() - own.monotonic()

    def now(self) -> datetime:
        return _moment(self._offset + self.monotonic(), UTC)

    def told(self, moment: datetime, *, between: tuple[float, float]) -> float:
        """Go on from `moment`, which it was some time between these two of `monotonic`.

        Return by how many seconds it jumped: 0.0 where the difference is less than two clocks, or
        so slow an answer, can tell.
        """
        asked, heard = between
        offset = moment.timestamp() - (asked + heard) / 2
        jump = offset - self._offset
        if abs(jump) < _ALIKE + (heard - asked) / 2:
            return 0.0
        self._offset = offset
        return jump
