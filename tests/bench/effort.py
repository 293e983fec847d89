"""The duration of a run."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Effort:
    """`seconds` of load for each benchmark, and number of `revocations`, in each round.

    The tails are measured once with each of these numbers of sessions, for `tail_seconds` at each
    rate.
    """

    rounds: int
    seconds: int
    revocations: int
    tail_sessions: tuple[int, ...]
    tail_seconds: int


FULL: Final = Effort(
    rounds=5,
    seconds=4,
    revocations=100,
    tail_sessions=(2_000, 20_000, 100_000),
    tail_seconds=10,
)
QUICK: Final = Effort(rounds=3, seconds=1, revocations=30, tail_sessions=(2_000,), tail_seconds=3)
