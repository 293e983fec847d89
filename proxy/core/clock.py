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

    now = staticmethod(partial(datetime.now, UTC))

    # BOOTTIME, not MONOTONIC: a copy must age while the machine sleeps.
    monotonic = staticmethod(
        partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic
    )


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

        Return by how many seconds it jumps: by none where both agree as well as clocks do, or as
        well as anybody knows who was told so slowly.
        """
        asked, heard = between
        offset = moment.timestamp() - (asked + heard) / 2
        jump = offset - self._offset
        if abs(jump) < _ALIKE + (heard - asked) / 2:
            return 0.0
        self._offset = offset
        return jump


_moment: Final = datetime.fromtimestamp
