"""Which transactions of the database were committed at a moment."""

from dataclasses import dataclass
from typing import Self


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
        xmin, xmax, in_progress = text.split(":")
        numbers = frozenset(map(int, in_progress.split(","))) if in_progress else frozenset[int]()
        return cls(int(xmin), int(xmax), numbers)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.in_progress)))}"

    def sees(self, xid: int) -> bool:
        """Return whether the changes of this transaction are visible in the snapshot."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.in_progress)

    @property
    def order(self) -> tuple[int, int]:
        """The sort key of snapshots of one database: the later one sees more, or as much."""
        return self.xmax, -len(self.in_progress)
