"""The values of one metric, one per round: medians, ratios, percentiles."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Series:
    """Values in the order of their rounds; there is at least one."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a series has at least one value")

    @classmethod
    def of(cls, *values: float) -> "Series":
        return cls(values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def ratio_to(self, other: "Series") -> "Series":
        """Return the ratio in each round, which cancels disturbances of a round.

        Raise ValueError if the numbers of rounds differ.
        """
        if len(self.values) != len(other.values):
            raise ValueError("series with different numbers of rounds")
        return Series(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of all values do not exceed."""
    rank = math.ceil(share * len(values))
    return sorted(values)[max(rank, 1) - 1]
