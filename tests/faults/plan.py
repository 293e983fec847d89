"""What is to be run, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from tests.faults.faults import Fault
from tests.faults.figures import Figures
from tests.faults.rules import Breach


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and on how much load. `factor` 1 is a thousand checks a second."""

    faults: Sequence[Fault]
    factor: float
    seed: int
    scale: float = 1.0
    minutes: float = 2.0
    sessions: int = 2000
    users: int = 500
    broken: str | None = None
    ending: bool = True

    def small(self) -> Self:
        """Return it with few sessions and no end: what is broken need not be started again."""
        return replace(self, sessions=200, users=50, ending=False)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one fault. `absent`: what should have been seen if it was really there."""

    fault: Fault
    figures: Figures
    breaches: tuple[Breach, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All rows, and what the end of the run showed."""

    rows: tuple[Row, ...]
    at_the_end: tuple[Breach, ...]
    stalled: Mapping[str, float]  # seconds that the rig and the instances waited for the CPU

    @property
    def breaches(self) -> tuple[Breach, ...]:
        return (*(breach for row in self.rows for breach in row.breaches), *self.at_the_end)

    @property
    def well(self) -> bool:
        return not self.breaches and not any(row.absent for row in self.rows)
