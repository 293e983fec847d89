"""What instances promise in figures, and what the checker calls a breach of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds. `grace` is the one the rig's instances are started with; the rest is as shipped."""

    grace: float = 3.0  # how long a rotated-out token still opens
    healthy: float = 1.0  # a revocation takes no longer while nothing fails
    max_age: float = 5.0  # a copy in memory is believed so long
    deadline: float = 0.2  # 150 ms for a check, and 50 ms to the client
    settling: float = 5.0  # after a fault the news may take the longer way for so long
    promised: float = 60.0  # a revocation answered with 202 is durable after so long at most
    clocks: float = 0.05  # one machine: what two readings of its clocks may differ by


@dataclass(frozen=True, slots=True)
class Breach:
    """An invariant that did not hold: which one, what was seen, and when."""

    invariant: str
    what: str
    when: float
