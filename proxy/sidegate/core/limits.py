"""How many living sessions of one type a user may have, and what one more leads to."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class AtLimit(StrEnum):
    """What becomes of a login beyond the limit. The value is what settings call it."""

    EVICT_OLDEST = "evict_oldest"
    EVICT_IDLE_LONGEST = "evict_idle_longest"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` sessions of a user, type and tenant live at once, the new one included."""

    most: int
    at_limit: AtLimit = AtLimit.EVICT_OLDEST

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError("a limit is at least 1; leave it out for none")


EVICTED_REASON: Final = "limit"
"""What the records of those that had to go say: nobody asked for it."""
