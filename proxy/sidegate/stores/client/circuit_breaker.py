"""Stop sending requests to a store that keeps failing, and probe it until it recovers."""

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from sidegate.core.clock import Clock

# Instances that lose the same store together must not probe it together.
_JITTER: Final = 0.25


class BreakerState(StrEnum):
    CLOSED = "closed"  # all requests are allowed
    OPEN = "open"  # none is
    HALF_OPEN = "half_open"  # a probe is in flight


class CircuitBreaker:
    """Opens after `failure_threshold` failures in a row, then allows a probe each `probe_interval`.

    `probe_interval` is in seconds. A probe whose outcome is never recorded does not block: the next
    one is allowed when it is due.
    """

    def __init__(
        self,
        *,
        failure_threshold: int,
        probe_interval: float,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._failure_threshold = failure_threshold
        self._probe_interval = probe_interval
        self._monotonic = clock.monotonic
        self._jitter = jitter
        self._failures = 0
        self._next_probe = 0.0
        self._opened_at = 0.0
        self.state = BreakerState.CLOSED

    def allow_request(self) -> bool:
        """Return whether one request may be sent now; its outcome must be recorded afterwards."""
        if self.state is BreakerState.CLOSED:
            return True
        if self._monotonic() < self._next_probe:
            return False
        self.state = BreakerState.HALF_OPEN
        self._schedule_probe()
        return True

    def record_success(self) -> float | None:
        """Close. Return how many seconds it was open; None if it was closed already."""
        self._failures = 0
        if self.state is BreakerState.CLOSED:
            return None
        self.state = BreakerState.CLOSED
        return self._monotonic() - self._opened_at

    def record_failure(self) -> bool:
        """Count a failure, and return whether this one opened it."""
        self._failures += 1
        was_closed = self.state is BreakerState.CLOSED
        if was_closed and self._failures < self._failure_threshold:
            return False
        self.state = BreakerState.OPEN
        if was_closed:
            self._opened_at = self._monotonic()
            self._schedule_probe()
        return was_closed

    def _schedule_probe(self) -> None:
        spread = 1 + _JITTER * (2 * self._jitter() - 1)
        self._next_probe = self._monotonic() + self._probe_interval * spread
