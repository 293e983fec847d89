"""How much trouble a run takes."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Effort:
    """`seconds` of load on each road in each round; so many `revocations` in each round."""

    rounds: int
    seconds: int
    revocations: int


WHOLE: Final = Effort(rounds=5, seconds=4, revocations=100)
QUICK: Final = Effort(rounds=3, seconds=1, revocations=30)
