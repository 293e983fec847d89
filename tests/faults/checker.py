"""Find violations of I1 to I6 and I9 in a history. Pure: no servers, no clocks.

consistency.py checks lists and the state at the end of a run.
"""

from collections.abc import Callable, Iterable, Iterator

from tests.faults.history import (
    NEVER_VALID,
    RIG,
    Check,
    Create,
    Entry,
    FaultPeriod,
    InstanceFault,
    Migrate,
    Refresh,
    Result,
    Revoke,
    Stall,
    StoresDown,
    TokenCategory,
)
from tests.faults.ledger import Ledger
from tests.faults.ledgers import Ledgers
from tests.faults.rules import Rules, Violation


def find_violations(history: Iterable[Entry], rules: Rules | None = None) -> list[Violation]:
    """Return all violations in a history, ordered by time. Entries may be in any order."""
    entries = list(history)
    rules = rules or Rules()
    ledgers = Ledgers(entries, rules)
    found = [
        violation
        for entry in entries
        if isinstance(entry, Check | Refresh | Revoke | Create | Migrate)
        for violation in _check_entry(entry, ledgers.of(entry))
    ]
    found += {violation for ledger in ledgers for violation in _check_successors(ledger)}
    found += _check_latency(entries, rules)
    found += _check_stores_down(entries, rules)
    return sorted(found, key=lambda violation: violation.time)


def _check_entry(entry: Entry, ledger: Ledger) -> Iterator[Violation]:
    match entry:
        case Check(result=Result.OK):
            yield from _check_identity(entry)
            yield from _check_never_valid(entry)
            yield from _check_ended_session(entry, ledger)
            yield from _check_ended_token(entry, ledger)
        case Check(result=Result.FAIL):
            yield from _check_refusal(entry, ledger)
        case Refresh(result=Result.OK):
            yield from _check_accepted_refresh(entry, ledger)
        case Refresh(result=Result.FAIL):
            yield from _check_refused_refresh(entry, ledger)
        case Revoke(result=Result.FAIL) if not ledger.is_lost(entry.session):
            message = (
                f"revoking {entry.session} on {entry.instance} was refused with {entry.status}"
            )
            yield Violation("I5", message, entry.start)
        case Migrate(result=Result.FAIL) if not ledger.is_lost(entry.session):
            message = f"migrating {entry.session} was refused with {entry.status}"
            yield Violation("I2", message, entry.start)
        case Create(result=Result.FAIL):
            message = f"a login of {entry.user} on {entry.instance} was refused with {entry.status}"
            yield Violation("I2", message, entry.start)


def _check_identity(check: Check) -> Iterator[Violation]:
    if check.category in NEVER_VALID:
        return  # a violation of I4; there is no identity to compare
    if (check.returned_user, check.returned_session) != (check.user, check.session):
        identity = f"{check.returned_user} ({check.returned_session})"
        message = f"{_token(check)} of {check.user} was allowed as {identity}"
        yield Violation("I3", message, check.start)


def _check_never_valid(check: Check) -> Iterator[Violation]:
    if check.category in NEVER_VALID:
        yield Violation(
            "I4",
            f"a token of category {check.category} was allowed on {check.instance}",
            check.start,
        )


def _check_ended_session(check: Check, ledger: Ledger) -> Iterator[Violation]:
    if check.session is None:
        return
    end = ledger.end_of(check.session)
    if check.start > end.denied_from:
        late = check.start - end.at
        message = f"{_token(check)} was allowed {late:.2f} s after {end.cause}"
        yield Violation("I5" if check.after_restart else end.invariant, message, check.start)


def _check_ended_token(check: Check, ledger: Ledger) -> Iterator[Violation]:
    if check.session is None or check.token is None:
        return
    end = ledger.token_end_of(check.session, check.token)
    if check.start > end.denied_from:
        late = check.start - end.at
        message = f"{_token(check)} was allowed {late:.2f} s after {end.cause}"
        yield Violation(end.invariant, message, check.start)


def _check_refusal(check: Check, ledger: Ledger) -> Iterator[Violation]:
    if check.session is None or check.token is None or check.category in NEVER_VALID:
        return
    reasons: tuple[Callable[[], bool], ...] = (
        lambda: ledger.may_have_ended_at(check.session or "") <= check.end,
        lambda: ledger.grace_may_have_ended_at(check.session or "", check.token or 0) <= check.end,
        lambda: ledger.may_be_evicted(check.session or "", by=check.end),
        lambda: ledger.may_be_stale(check.session or "", check.end),
    )
    if not any(reason() for reason in reasons):
        message = (
            f"{_token(check)} is valid, and was refused with {check.status} ({check.category})"
        )
        yield Violation("I5" if check.after_restart else "I2", message, check.start)


def _check_accepted_refresh(refresh: Refresh, ledger: Ledger) -> Iterator[Violation]:
    if refresh.start > ledger.ended_at(refresh.session):
        message = f"token {refresh.token} was refreshed after session {refresh.session} had ended"
        yield Violation("I1", message, refresh.start)
    elif (
        refresh.start
        > ledger.refresh_ended_at(refresh.session, refresh.token) + ledger.rules.clock_tolerance
    ):
        message = (
            f"token {refresh.token} was refreshed again after its grace period,"
            " though its successor was in use"
        )
        yield Violation("I6", message, refresh.start)


def _check_refused_refresh(refresh: Refresh, ledger: Ledger) -> Iterator[Violation]:
    """A token whose grace period is over gets its successor again until that was used."""
    session, token = refresh.session, refresh.token
    ended_at = min(ledger.may_have_ended_at(session), ledger.may_be_replaced_at(session, token))
    if ended_at > refresh.end:
        is_valid = ledger.grace_may_have_ended_at(session, token) > refresh.end
        state = "is valid" if is_valid else "has a successor that was not used"
        message = f"token {token} {state}, and its refresh was refused with {refresh.status}"
        yield Violation("I2" if is_valid else "I6", message, refresh.start)


def _check_successors(ledger: Ledger) -> Iterator[Violation]:
    for operations in ledger.sessions.values():
        successors: dict[int, int] = {}
        for refresh in operations.refreshes:
            if refresh.successor is None:
                continue
            if successors.setdefault(refresh.token, refresh.successor) != refresh.successor:
                message = f"token {refresh.token} of session {refresh.session} has two successors"
                yield Violation("I6", message, refresh.start)


def _check_latency(entries: list[Entry], rules: Rules) -> Iterator[Violation]:
    instance_faults = [entry for entry in entries if isinstance(entry, InstanceFault)]
    starved = [entry for entry in entries if isinstance(entry, FaultPeriod) and entry.cpu_starved]
    stalls = [
        entry
        for entry in entries
        if isinstance(entry, Stall) and not any(_overlap(entry, fault) for fault in starved)
    ]
    for check in entries:
        if not isinstance(check, Check) or check.aborted or _is_in_time(check, rules, ()):
            continue
        if not _is_excused(check, instance_faults) and not _is_in_time(check, rules, stalls):
            when = (
                f"answered after {(check.end - check.start) * 1000:.0f} ms"
                if check.status
                else "not answered"
            )
            message = f"a check on {check.instance} ({check.category}) was {when}"
            yield Violation("I9", message, check.start)


def _is_in_time(check: Check, rules: Rules, stalls: Iterable[Stall]) -> bool:
    if check.status == 0:
        return False
    waited = sum(
        stall.waited
        for stall in stalls
        if stall.process in (RIG, check.instance) and _overlap(stall, check)
    )
    return check.end - check.start - waited <= rules.deadline


def _check_stores_down(entries: list[Entry], rules: Rules) -> Iterator[Violation]:
    for stores_down in [entry for entry in entries if isinstance(entry, StoresDown)]:
        for check in entries:
            if (
                isinstance(check, Check)
                and check.result is Result.OK
                and stores_down.start + rules.max_age + rules.clock_tolerance < check.start
                and check.end < stores_down.end
            ):
                seconds = check.start - stores_down.start
                message = (
                    f"{_token(check)} was allowed after {seconds:.1f} s without a reachable store"
                )
                yield Violation("I1", message, check.start)


def _is_excused(check: Check, instance_faults: Iterable[InstanceFault]) -> bool:
    return any(
        instance_fault.instance == check.instance and _overlap(instance_fault, check)
        for instance_fault in instance_faults
    )


def _overlap(one: Entry, other: Entry) -> bool:
    return one.start <= other.end and other.start <= one.end


def _token(check: Check) -> str:
    kind = f"{check.category} token" if check.category is not TokenCategory.ENDED else "token"
    return f"{kind} {check.token} on {check.instance}"
