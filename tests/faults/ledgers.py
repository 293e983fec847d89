"""The ledgers of a history in which the database was restored."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from math import inf

from tests.faults.history import DatabaseRestore, Entry
from tests.faults.ledger import Ledger
from tests.faults.rules import Rules


class Ledgers:
    """The ledgers of one history: a restore of the database begins another one.

    An operation is judged by what was known when it ended. Before a restore that is all that came
    before; after it, without the changes that the restored database does not know.
    """

    def __init__(self, history: Iterable[Entry], rules: Rules) -> None:
        entries = list(history)
        restores = sorted(
            (entry for entry in entries if isinstance(entry, DatabaseRestore)),
            key=lambda restore: restore.end,
        )
        self._ends = [restore.end for restore in restores]
        self._ledgers = [
            Ledger((entry for entry in entries if entry.start < until), rules, restores[:number])
            for number, until in enumerate((*self._ends, inf))
        ]

    def __iter__(self) -> Iterator[Ledger]:
        return iter(self._ledgers)

    @property
    def last(self) -> Ledger:
        """The ledger after the last restore."""
        return self._ledgers[-1]

    def of(self, entry: Entry) -> Ledger:
        """Return the ledger that an entry is judged by."""
        return self._ledgers[bisect_right(self._ends, entry.end)]
