"""A histogram of durations, as one list of integers."""

from bisect import bisect_left
from itertools import accumulate
from typing import Final

# Seconds. From a hit in memory (tens of microseconds) to a store that hardly responds.
BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip


class Histogram:
    """One series of a histogram: the number of values in each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def with_immediate(self, count: int) -> "Histogram":
        """Return a copy with `count` more values in the first bucket, of no duration."""
        copy = Histogram()
        copy.counts = [self.counts[0] + count, *self.counts[1:]]
        copy.total = self.total
        return copy

    def buckets(self) -> list[tuple[str, int]]:
        """Return (upper bound, cumulative count) pairs, as in the exposition format."""
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))
