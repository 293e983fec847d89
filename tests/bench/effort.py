"""The duration of a run."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Effort:
    """`seconds` of load for each benchmark, and number of `revocations`, in each round."""

    rounds: int
    seconds: int
    revocations: int


FULL: Final = Effort(rounds=5, seconds=4, revocations=100)
QUICK: Final = Effort(rounds=3, seconds=1, revocations=30)
