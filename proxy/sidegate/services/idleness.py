"""Whether a session that looks idle in the database is known to be idle.

Each instance writes the activity that it has seen with a delay, and what it sees during an outage
of the database only after that. Until every instance can have written it, a session that looks idle
may have been in use at another instance all the time.
"""

from datetime import datetime
from math import inf
from typing import Final

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable
from sidegate.core.judge import get_state
from sidegate.core.session import Session
from sidegate.core.session_state import SessionState
from sidegate.services.activity import FLUSH_TIMEOUT

CAUSE: Final = "activity"
"""Takes the place of a store's name where idleness is not known."""


def compute_settle_time(touch_interval: float) -> float:
    """Return the seconds after an outage in which every instance can have written its activity.

    A flush that began during the outage may last until its timeout. The next one begins an interval
    after that, connects again, and may take its whole timeout, too.
    """
    return FLUSH_TIMEOUT + touch_interval + FLUSH_TIMEOUT


class Idleness:
    """Knows since when the database has been available; nothing else decides or keeps it.

    A process that has just started knows of no outage before, so idleness is not known at first.
    """

    def __init__(self, *, clock: Clock, settle_time: float) -> None:
        """`settle_time` is in seconds, as `compute_settle_time` returns it."""
        self._monotonic = clock.monotonic
        self._settle_time = settle_time
        self._known_from = inf  # by the monotonic clock; infinite during an outage

    @property
    def is_known(self) -> bool:
        """Whether a session that looks idle in the database, read now, is idle."""
        return self._monotonic() >= self._known_from

    def record_failure(self) -> None:
        """Record that the database did not answer, or did not take activity."""
        self._known_from = inf

    def record_round(self, succeeded: bool) -> None:
        """Record whether a round of the change poller, two of which take place a second, succeeded.

        Only a round ends an outage: it takes place without requests, and has its own timeout.
        """
        if not succeeded:
            self.record_failure()
        elif self._known_from == inf:
            self._known_from = self._monotonic() + self._settle_time

    def require_known(self, session: Session, now: datetime) -> None:
        """Raise StoreUnavailable if `session`, as read from the database, may only look idle."""
        if get_state(session, now) is SessionState.IDLE and not self.is_known:
            raise StoreUnavailable(CAUSE, "other instances may not have written their activity yet")
