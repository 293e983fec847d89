"""Session durations: a histogram that many instances add to and that windows subtract.

Bucket bounds grow by a factor of 2^(1/8) from one second on, so the relative error of a quantile is
at most 4.5 %. Durations below one second count as half a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil, sqrt
from types import MappingProxyType
from typing import Final

_SECOND: Final = 1_000_000
_BUCKETS_PER_OCTAVE: Final = 8
# 29 octaves of seconds are 17 years: more than any lifetime the settings allow.
_OCTAVES: Final = 29

BOUNDS: Final = tuple(
    round(_SECOND * 2 ** (step / _BUCKETS_PER_OCTAVE))
    for step in range(_OCTAVES * _BUCKETS_PER_OCTAVE + 1)
)
"""The bucket bounds in microseconds. A duration's bucket is the number of bounds it reaches.
Stored counts depend on these bounds, so they must not change."""


@dataclass(frozen=True, slots=True)
class Durations:
    """The number of sessions per bucket, and the sum of their durations.

    A count is negative if an end was withdrawn that an earlier window had counted.
    """

    counts: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    microseconds: int = 0

    def since(self, earlier: "Durations") -> "Durations":
        """Return the difference to `earlier`."""
        added = {
            bucket: count - earlier.counts.get(bucket, 0) for bucket, count in self.counts.items()
        }
        return Durations(added, self.microseconds - earlier.microseconds)

    @property
    def average(self) -> float | None:
        """The exact average in seconds, or None without sessions."""
        number = sum(self.counts.values())
        return max(0.0, self.microseconds / number / _SECOND) if number > 0 else None

    def quantile(self, share: float) -> float | None:
        """Return the quantile `share` (0 to 1) in seconds, or None without sessions."""
        filled = {bucket: count for bucket, count in sorted(self.counts.items()) if count > 0}
        rank = max(1, ceil(share * sum(filled.values())))
        for bucket, so_far in zip(filled, accumulate(filled.values()), strict=True):
            if so_far >= rank:
                return _bucket_seconds(bucket)
        return None

    def summarize(self) -> dict[str, float | None]:
        """Return `average`, `p50` and `p95` in seconds; each is None without sessions."""
        return {
            "average": self.average,
            "p50": self.quantile(0.50),
            "p95": self.quantile(0.95),
        }


def _bucket_seconds(bucket: int) -> float:
    """Return the seconds that represent a bucket: the geometric mean of its bounds."""
    if bucket == 0:
        return 0.5
    first, *end = BOUNDS[bucket - 1 : bucket + 1]
    return sqrt(first * end[0]) / _SECOND if end else first / _SECOND
