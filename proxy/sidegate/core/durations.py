"""How long sessions lasted: a histogram that many instances can add to and windows subtract.

The buckets grow by 2^(1/8) each, from one second on, so that a quantile read from them is at most
4.5 % off; what was shorter than a second is taken for half of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil, sqrt
from types import MappingProxyType
from typing import Final

_SECOND: Final = 1_000_000
_PER_OCTAVE: Final = 8
# Twenty-nine octaves of seconds are seventeen years: longer than any lifetime the settings allow.
_OCTAVES: Final = 29

BOUNDS: Final = tuple(
    round(_SECOND * 2 ** (step / _PER_OCTAVE)) for step in range(_OCTAVES * _PER_OCTAVE + 1)
)
"""Where a bucket ends and the next begins, in microseconds. A duration belongs to the bucket whose
number is how many bounds it reaches. Stored counts mean these: they do not change."""


@dataclass(frozen=True, slots=True)
class Durations:
    """How many sessions fell into each bucket, and how long they lasted together.

    A count may be below zero where an end was taken back that an earlier window had counted.
    """

    counts: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    microseconds: int = 0

    def since(self, earlier: "Durations") -> "Durations":
        """Return what has been added after `earlier`."""
        added = {
            bucket: count - earlier.counts.get(bucket, 0) for bucket, count in self.counts.items()
        }
        return Durations(added, self.microseconds - earlier.microseconds)

    @property
    def average(self) -> float | None:
        """Return the exact average in seconds; None: there were none."""
        number = sum(self.counts.values())
        return max(0.0, self.microseconds / number / _SECOND) if number > 0 else None

    def quantile(self, share: float) -> float | None:
        """Return the seconds that so large a share of the sessions lasted at most; None: no
        sessions.
        """
        filled = {bucket: count for bucket, count in sorted(self.counts.items()) if count > 0}
        rank = max(1, ceil(share * sum(filled.values())))
        for bucket, so_far in zip(filled, accumulate(filled.values()), strict=True):
            if so_far >= rank:
                return _middle(bucket)
        return None

    def measures(self) -> dict[str, float | None]:
        """Return what is told of them, in seconds: average, p50 and p95; None: no sessions."""
        return {
            "average": self.average,
            "p50": self.quantile(0.50),
            "p95": self.quantile(0.95),
        }


def _middle(bucket: int) -> float:
    """Return the seconds a bucket stands for: as far, in ratio, from its beginning as its end."""
    if bucket == 0:
        return 0.5
    first, *end = BOUNDS[bucket - 1 : bucket + 1]
    return sqrt(first * end[0]) / _SECOND if end else first / _SECOND
