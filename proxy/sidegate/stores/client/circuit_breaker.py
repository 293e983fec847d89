"""Stop asking a store that keeps failing, and probe until it is back."""

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from sidegate.core.clock import Clock

# Instances that lost the same store together must not probe it together.
_JITTER: Final = 0.25


class BreakerState(StrEnum):
    CLOSED = "closed"  # everybody is let through
    OPEN = "open"  # nobody is
    HALF_OPEN = "half_open"  # a probe is under way


class CircuitBreaker:
    """Opens after `failures` in a row; then lets one probe through every `probe_every` seconds.

    A probe that never reports back blocks nobody: the next one is due at its time.
    """

    def __init__(
        self,
        *,
        failures: int,
        probe_every: float,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limit = failures
        self._probe_every = probe_every
        self._monotonic = clock.monotonic
        self._jitter = jitter
        self._failures = 0
        self._next_probe = 0.0
        self.state = BreakerState.CLOSED

    def admits(self) -> bool:
        """Say whether one call may go through now; it must be followed by how it went."""
        if self.state is BreakerState.CLOSED:
            return True
        if self._monotonic() < self._next_probe:
            return False
        self.state = BreakerState.HALF_OPEN
        self._wait_for_next_probe()
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self.state = BreakerState.CLOSED

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= self._limit or self.state is not BreakerState.CLOSED:
            if self.state is BreakerState.CLOSED:
                self._wait_for_next_probe()
            self.state = BreakerState.OPEN

    def _wait_for_next_probe(self) -> None:
        spread = 1 + _JITTER * (2 * self._jitter() - 1)
        self._next_probe = self._monotonic() + self._probe_every * spread
