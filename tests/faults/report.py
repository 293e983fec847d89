"""What came of a run, as a table for the terminal or for the docs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from tests.faults.faults import Fault
from tests.faults.figures import Figures
from tests.faults.plan import Outcome, Row
from tests.faults.rules import Breach

COLUMNS: Final = (
    "#",
    "fault",
    "valid",
    "p50",
    "p99",
    "wrong allows",
    "last allow",
    "recovery",
    "came of it",
)
_WIDTHS: Final = (2, 58, 18, 8, 18, 12, 10, 15, 0)

# What a wrong yes is: to the dead, to somebody else's, to what was never worth anything.
_WRONG: Final = frozenset({"I1", "I3", "I4", "I6"})
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Table:
    """How the table is spelled: a row can be told as soon as it is there."""

    header: Callable[[], str]
    line: Callable[[Row], str]


def cells(row: Row) -> tuple[str, ...]:
    """Return what stands in a row: what was measured, and in brackets what was expected."""
    fault, seen = row.fault, row.figures
    wrong = sum(breach.invariant in _WRONG for breach in row.breaches)
    return (
        str(fault.number),
        fault.name,
        _with(_share(seen.valid), None if fault.valid is None else f"≥ {_share(fault.valid)}"),
        _millis(seen.p50),
        _with(_millis(seen.p99), _expected_p99(fault, seen)),
        str(wrong),
        f"{seen.late_allow:.2f} s",
        _with(
            _seconds(seen.recovery),
            _seconds(fault.recovery) if fault.recovery is not None else None,
        ),
        verdict(row),
    )


def _padded(texts: Sequence[str]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, _WIDTHS, strict=True)).rstrip()


def _piped(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


PLAIN: Final = Table(lambda: _padded(COLUMNS), lambda row: _padded(cells(row)))
MARKDOWN: Final = Table(
    lambda: f"{_piped(COLUMNS)}\n{_piped(['---'] * len(COLUMNS))}",
    lambda row: _piped(cells(row)),
)


def verdict(row: Row) -> str:
    """Say in a word or two what came of a fault; a slow 99th percentile alone fails nothing."""
    told = Counter(breach.invariant for breach in row.breaches)
    words = [f"{number} of {name}" for name, number in sorted(told.items())]
    words += ["not shown"] * bool(row.absent)
    if not words and too_slow(row):
        return "held, slow"
    return ", ".join(words) or "held"


def too_slow(row: Row) -> bool:
    """Say whether the 99th percentile is beyond what is expected."""
    limit, p99 = _p99_limit(row.fault, row.figures), row.figures.p99
    return limit is not None and p99 is not None and p99 > limit


def story(outcome: Outcome) -> str:
    """Return what went wrong, one line each, some of each sort."""
    lines: list[str] = []
    for row in outcome.rows:
        where = f"{row.fault.number} {row.fault.name}"
        lines += [f"{where}: {text}" for text in _told(row.breaches)]
        lines += [f"{where}: not really there: {text}" for text in row.absent]
    lines += [f"at the end: {text}" for text in _told(outcome.at_the_end)]
    return "\n".join(lines)


def left_out(outcome: Outcome) -> str:
    """Return which share of requests is in no figure, for want of CPU."""
    seen = [row.figures for row in outcome.rows]
    without = sum(figures.left_out for figures in seen)
    return _share(without / max(1, without + sum(figures.requests for figures in seen)))


def _told(breaches: Sequence[Breach]) -> list[str]:
    """Tell the first ones of each invariant, and how many more there are."""
    told = []
    for name in sorted({breach.invariant for breach in breaches}):
        these = [breach.what for breach in breaches if breach.invariant == name]
        told += [f"{name}: {what}" for what in these[:_SHOWN]]
        told += [f"{name}: … and {len(these) - _SHOWN} more"] * (len(these) > _SHOWN)
    return told


def _with(measured: str, expected: str | None) -> str:
    return measured if expected is None else f"{measured} ({expected})"


def _expected_p99(fault: Fault, seen: Figures) -> str | None:
    limit = _p99_limit(fault, seen)
    return None if limit is None else f"≤ {_millis(limit)}"


def _p99_limit(fault: Fault, seen: Figures) -> float | None:
    if fault.twice_base:
        return None if seen.base_p99 is None else 2 * seen.base_p99
    return fault.p99


def _share(share: float | None) -> str:
    if share is None:
        return "-"
    return "100 %" if share == 1 else f"{int(share * 1e5) / 1e3:g} %"


def _millis(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return "not yet" if seconds == inf else f"{seconds:.1f} s"
