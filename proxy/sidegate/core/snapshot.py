"""Which transactions of the database were committed at a moment."""

from dataclasses import dataclass
from typing import Final, Self

# The numbers of both databases fit into 63 bits.
_MAX_XID: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of the database, as Postgres defines and formats it: `xmin:xmax:xip,xip`.

    All transactions below `xmin` have ended, none from `xmax` on has begun, and those of
    `in_progress`, which lie between, had not ended.
    """

    xmin: int
    xmax: int
    in_progress: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the snapshot of its text. Raise ValueError if it is none."""
        first, last, in_progress = text.split(":")
        xmin, xmax = int(first), int(last)
        numbers = frozenset(map(int, in_progress.split(","))) if in_progress else frozenset[int]()
        if not 0 <= xmin <= xmax <= _MAX_XID or any(not xmin <= xid < xmax for xid in numbers):
            raise ValueError("transaction numbers out of range")
        return cls(xmin, xmax, numbers)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.in_progress)))}"

    def sees(self, xid: int) -> bool:
        """Return whether the changes of this transaction are visible in the snapshot."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.in_progress)

    @property
    def order(self) -> tuple[int, int]:
        """The sort key of snapshots of one database: the later one sees more, or as much."""
        return self.xmax, -len(self.in_progress)
