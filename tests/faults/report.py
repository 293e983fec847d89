"""Format the results of a run as a table, for the terminal or for the docs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from tests.faults.faults import Fault
from tests.faults.plan import Outcome, Row
from tests.faults.rules import Violation
from tests.faults.stats import FaultStats

COLUMNS: Final = (
    "#",
    "fault",
    "valid",
    "p50",
    "p99",
    "wrong allows",
    "last allow",
    "recovery",
    "result",
)
_WIDTHS: Final = (2, 58, 18, 8, 18, 12, 10, 15, 0)

# Invariants whose violations are wrong allows.
_WRONG_ALLOWS: Final = frozenset({"I1", "I3", "I4", "I6"})
_MAX_LISTED: Final = 5


@dataclass(frozen=True, slots=True)
class Table:
    """A table format that prints row by row."""

    header: Callable[[], str]
    line: Callable[[Row], str]


def format_cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row: measured values, with expected ones in parentheses."""
    fault, stats = row.fault, row.stats
    wrong = sum(violation.invariant in _WRONG_ALLOWS for violation in row.violations)
    return (
        str(fault.number),
        fault.name,
        _with_expected(
            _format_share(stats.valid),
            None if fault.valid is None else f"≥ {_format_share(fault.valid)}",
        ),
        _format_millis(stats.p50),
        _with_expected(_format_millis(stats.p99), _expected_p99(fault, stats)),
        str(wrong),
        f"{stats.last_allow:.2f} s",
        _with_expected(
            _format_seconds(stats.recovery),
            _format_seconds(fault.recovery) if fault.recovery is not None else None,
        ),
        format_result(row),
    )


def _pad(texts: Sequence[str]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, _WIDTHS, strict=True)).rstrip()


def _pipe(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


PLAIN: Final = Table(lambda: _pad(COLUMNS), lambda row: _pad(format_cells(row)))
MARKDOWN: Final = Table(
    lambda: f"{_pipe(COLUMNS)}\n{_pipe(['---'] * len(COLUMNS))}",
    lambda row: _pipe(format_cells(row)),
)


def format_result(row: Row) -> str:
    """Return the result of a fault. A slow 99th percentile alone is no failure."""
    counts = Counter(violation.invariant for violation in row.violations)
    words = [f"{number} of {name}" for name, number in sorted(counts.items())]
    words += ["no effect"] * bool(row.missing_effects)
    if not words and is_too_slow(row):
        return "passed, slow"
    return ", ".join(words) or "passed"


def is_too_slow(row: Row) -> bool:
    """Return whether the 99th percentile exceeds the expected one."""
    limit, p99 = _p99_limit(row.fault, row.stats), row.stats.p99
    return limit is not None and p99 is not None and p99 > limit


def format_failures(outcome: Outcome) -> str:
    """Return the violations and missing effects, one per line, limited per invariant."""
    lines: list[str] = []
    for row in outcome.rows:
        where = f"{row.fault.number} {row.fault.name}"
        lines += [f"{where}: {text}" for text in _format_violations(row.violations)]
        lines += [f"{where}: fault had no effect: {text}" for text in row.missing_effects]
    lines += [f"at the end: {text}" for text in _format_violations(outcome.final_violations)]
    return "\n".join(lines)


def format_excluded_share(outcome: Outcome) -> str:
    """Return the share of requests that were excluded because of CPU waits."""
    stats = [row.stats for row in outcome.rows]
    without = sum(stats.excluded for stats in stats)
    return _format_share(without / max(1, without + sum(stats.requests for stats in stats)))


def _format_violations(violations: Sequence[Violation]) -> list[str]:
    """Return the first violations of each invariant, and the number of further ones."""
    counts = []
    for name in sorted({violation.invariant for violation in violations}):
        these = [violation.message for violation in violations if violation.invariant == name]
        counts += [f"{name}: {what}" for what in these[:_MAX_LISTED]]
        counts += [f"{name}: … and {len(these) - _MAX_LISTED} more"] * (len(these) > _MAX_LISTED)
    return counts


def _with_expected(measured: str, expected: str | None) -> str:
    return measured if expected is None else f"{measured} ({expected})"


def _expected_p99(fault: Fault, stats: FaultStats) -> str | None:
    limit = _p99_limit(fault, stats)
    return None if limit is None else f"≤ {_format_millis(limit)}"


def _p99_limit(fault: Fault, stats: FaultStats) -> float | None:
    if fault.twice_baseline:
        return None if stats.baseline_p99 is None else 2 * stats.baseline_p99
    return fault.p99


def _format_share(share: float | None) -> str:
    if share is None:
        return "-"
    return "100 %" if share == 1 else f"{int(share * 1e5) / 1e3:g} %"


def _format_millis(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def _format_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return "not yet" if seconds == inf else f"{seconds:.1f} s"
