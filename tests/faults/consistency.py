"""Check lists, limits, the audit trail and unanswered checks: I5, I7, I8, I12. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import inf

from tests.faults.history import (
    ActiveCount,
    AuditEvent,
    Check,
    Create,
    Entry,
    Listing,
    Result,
)
from tests.faults.ledger import Ledger, SessionOperations
from tests.faults.ledgers import Ledgers
from tests.faults.rules import Rules, Violation


def find_final_violations(history: Iterable[Entry], rules: Rules | None = None) -> list[Violation]:
    """Return the violations at the end of a run. The trail is checked if there is any event."""
    entries = list(history)
    ledger = Ledgers(entries, rules or Rules()).last
    found = [*_check_unanswered(entries), *_check_limits(entries)]
    events = [entry for entry in entries if isinstance(entry, AuditEvent)]
    if events:
        found += _check_audit_trail(events, entries, ledger)
    return found


def find_wrong_lists(history: Iterable[Entry], rules: Rules | None = None) -> list[Violation]:
    """Return lists without a certainly active session, or with one that had ended (I5)."""
    entries = list(history)
    ledgers = Ledgers(entries, rules or Rules())
    certain: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for create in entries:
        if isinstance(create, Create) and create.session and create.limit is None:
            certain[create.user].append((create.end, create.session))
    return [
        violation
        for listing in entries
        if isinstance(listing, Listing) and listing.result is Result.OK
        for violation in _check_list(listing, certain[listing.user], ledgers.of(listing))
    ]


def _check_list(
    listing: Listing, created: Sequence[tuple[float, str]], ledger: Ledger
) -> Iterator[Violation]:
    for since, session in created:
        is_active = since < listing.start and ledger.may_have_ended_at(session) > listing.end
        if is_active and session not in listing.sessions:
            yield Violation("I5", f"session {session} is active but not listed", listing.start)
    for session in listing.sessions:
        if ledger.ended_at(session) < listing.start:
            yield Violation("I5", f"session {session} has ended but is listed", listing.start)


def _check_unanswered(entries: Sequence[Entry]) -> Iterator[Violation]:
    latest = {
        entry.token: entry
        for entry in entries
        if isinstance(entry, Check) and entry.after_restart and not entry.retried
    }
    for check in latest.values():
        if check.result is Result.INFO:
            message = f"token {check.token} had no response after the restart ({check.status})"
            yield Violation("I12", message, check.start)


def _check_limits(entries: Sequence[Entry]) -> Iterator[Violation]:
    for count in entries:
        if isinstance(count, ActiveCount) and count.sessions > count.limit:
            message = (
                f"{count.user} has {count.sessions} active sessions, the limit is {count.limit}"
            )
            yield Violation("I7", message, count.start)


def _check_audit_trail(
    events: Sequence[AuditEvent], entries: Sequence[Entry], ledger: Ledger
) -> Iterator[Violation]:
    by_session: defaultdict[str, list[AuditEvent]] = defaultdict(list)
    for event in events:
        by_session[event.session].append(event)
    for session, operations in ledger.sessions.items():
        for message in _describe_mismatches(
            operations, by_session.get(session, []), session, ledger
        ):
            yield Violation("I8", f"session {session}: {message}", events[0].start)
    yield from _check_unknown_sessions(by_session, entries, ledger)


def _describe_mismatches(
    operations: SessionOperations, events: Sequence[AuditEvent], session: str, ledger: Ledger
) -> Iterator[str]:
    done = Counter(event.action for event in events)
    versions = sorted(event.version for event in events)
    *earlier, last = versions or [0]
    expected = list(range(1, len(versions) + 1))
    if versions != expected and not (
        ledger.is_revoked_again(session) and earlier == expected[:-1] and last >= len(versions)
    ):
        yield f"its events have the versions {versions}"
    if ledger.is_lost(session):
        if events:
            yield "it has events, but the restored database does not know it"
        return
    if operations.creates and done["create"] != 1:
        yield f"{done['create']} create events"
    acknowledged = any(map(ledger.is_durable, operations.revokes))
    if done["revoke"] > 1 or (acknowledged and not done["revoke"]):
        yield f"{done['revoke']} revoke events"
    requested = ledger.may_have_ended_at(session) < inf or ledger.may_be_evicted(session, by=inf)
    if done["revoke"] and not requested:
        yield "a revoke event, but no revocation was requested"
    least, most = _rotation_bounds(operations)
    if not least <= done["refresh"] <= most:
        yield f"{done['refresh']} refresh events, expected {least} to {most}"


def _rotation_bounds(operations: SessionOperations) -> tuple[int, int]:
    """Return the minimum and maximum number of rotations: a repeated refresh rotates once."""
    certain = {refresh.token for refresh in operations.refreshes if refresh.result is Result.OK}
    possible = {refresh.token for refresh in operations.refreshes if refresh.result is Result.INFO}
    return len(certain), len(certain | possible)


def _check_unknown_sessions(
    by_session: dict[str, list[AuditEvent]], entries: Sequence[Entry], ledger: Ledger
) -> Iterator[Violation]:
    """Yield a violation for sessions that no login without a response can explain."""
    answered = {create.key for create in entries if isinstance(create, Create) and create.session}
    lost: Counter[str] = Counter()
    for key, user in {
        (create.key, create.user)
        for create in entries
        if isinstance(create, Create) and create.key not in answered
    }:
        del key
        lost[user] += 1
    unknown = Counter(
        events[0].user for session, events in by_session.items() if session not in ledger.sessions
    )
    for user, number in unknown.items():
        if number > lost[user]:
            unanswered = f"{lost[user]} logins without a response"
            message = f"{number} unknown sessions of {user}, {unanswered}"
            yield Violation("I8", message, 0.0)
