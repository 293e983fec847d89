"""The plan of a run, and its outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from tests.faults.faults import Fault
from tests.faults.rules import Violation
from tests.faults.stats import FaultStats


@dataclass(frozen=True, slots=True)
class Plan:
    """Which faults to run, under which load. `load_factor` 1 is a thousand checks a second."""

    faults: Sequence[Fault]
    load_factor: float
    seed: int
    time_scale: float = 1.0
    minutes: float = 2.0
    sessions: int = 2000
    users: int = 500
    broken_build: str | None = None
    final_check: bool = True

    def reduced(self) -> Self:
        """Return the plan with fewer sessions and without the final check, for broken builds."""
        return replace(self, sessions=200, users=50, final_check=False)


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one fault. `missing_effects`: expected signs of it that were not observed."""

    fault: Fault
    stats: FaultStats
    violations: tuple[Violation, ...]
    missing_effects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All rows, and the violations found by the final check."""

    rows: tuple[Row, ...]
    final_violations: tuple[Violation, ...]
    cpu_wait_seconds: Mapping[str, float]  # by process

    @property
    def violations(self) -> tuple[Violation, ...]:
        return (
            *(violation for row in self.rows for violation in row.violations),
            *self.final_violations,
        )

    @property
    def passed(self) -> bool:
        return not self.violations and not any(row.missing_effects for row in self.rows)
