"""A run as text: what was broken, and what happened around it."""

from collections.abc import Iterator, Sequence
from typing import Final

from tests.faults.history import (
    ActiveCount,
    AuditEvent,
    Check,
    Entry,
    FaultPeriod,
    Migrate,
    Refresh,
    Result,
)
from tests.faults.rules import Violation
from tests.simulation.run import Outcome

# Lines of the time line of a run that was not shrunk.
_MAX_LINES: Final = 400


def format_violations(violations: Sequence[Violation], *, limit: int = 5) -> str:
    lines = [
        f"{each.invariant} at {each.time:.3f} s: {each.message}" for each in violations[:limit]
    ]
    if len(violations) > limit:
        lines.append(f"and {len(violations) - limit} more")
    return "\n".join(lines)


def format_timeline(outcome: Outcome) -> str:
    """Return what happened until the first violation, and to its session alone if it names one."""
    first = outcome.violations[0] if outcome.violations else None
    until = outcome.seconds if first is None else first.time
    session = None if first is None else _find_session(outcome, first)
    lines = [(event.at, f"{event.where}: {event.text}") for event in outcome.events]
    for entry in outcome.history:
        text = _format_entry(entry, session)
        if text is not None:
            lines.append((entry.end, text))
    shown = [f"{at:9.3f}  {text}" for at, text in sorted(lines) if at <= until]
    return "\n".join(shown[-_MAX_LINES:])


def _find_session(outcome: Outcome, violation: Violation) -> str | None:
    """Return the session of the entry that a violation is about."""
    for entry in outcome.history:
        session = getattr(entry, "session", None)
        if session is None:
            continue
        if session in violation.message or (
            entry.start == violation.time and isinstance(entry, Check | Refresh | Migrate)
        ):
            return str(session)
    return None


def _format_entry(entry: Entry, session: str | None) -> str | None:
    """Return an entry in a line; None: it is left out."""
    if isinstance(entry, AuditEvent | ActiveCount | FaultPeriod):
        return None
    own = getattr(entry, "session", None)
    if session is not None and own is not None and own != session:
        return None
    return " ".join(_describe(entry))


def _describe(entry: Entry) -> Iterator[str]:
    yield type(entry).__name__.lower()
    for name, known in (("session", "of"), ("user", "of"), ("token", "of token")):
        value = getattr(entry, name, None)
        if value is not None and not (name == "user" and getattr(entry, "session", None)):
            yield f"{known} {value}"
    instance = getattr(entry, "instance", None)
    if instance is not None:
        yield f"at {instance}"
    result = getattr(entry, "result", None)
    if isinstance(result, Result):
        yield f"-> {result.value} {getattr(entry, 'status', '')}"
    successor = getattr(entry, "successor", None)
    if successor is not None:
        yield f"successor {successor}"
    if entry.end - entry.start > 0.001:
        yield f"(since {entry.start:.3f})"
