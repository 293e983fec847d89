"""History in, breaches out: I1 to I6 and I9. Pure; it knows neither servers nor clocks.

trail.py judges lists, and what is found when nothing goes on any more.
"""

from collections.abc import Callable, Iterable, Iterator

from tests.faults.history import (
    RIG,
    WORTHLESS,
    Check,
    Create,
    Dark,
    Entry,
    Hurt,
    Mark,
    Refresh,
    Result,
    Revoke,
    Road,
    Stall,
)
from tests.faults.ledger import Ledger
from tests.faults.rules import Breach, Rules


def breaches(history: Iterable[Entry], rules: Rules | None = None) -> list[Breach]:
    """Return every breach a history shows, in the order of time. Entries may be in any order."""
    entries = list(history)
    ledger = Ledger(entries, rules or Rules())
    found = [
        breach
        for entry in entries
        if isinstance(entry, Check | Refresh | Revoke | Create)
        for breach in _of_one(entry, ledger)
    ]
    found += _two_successors(ledger)
    found += _late(entries, ledger.rules)
    found += _allowed_in_the_dark(entries, ledger.rules)
    return sorted(found, key=lambda breach: breach.when)


def _of_one(entry: Entry, ledger: Ledger) -> Iterator[Breach]:
    match entry:
        case Check(result=Result.OK):
            yield from _wrongly_named(entry)
            yield from _worthless_allowed(entry)
            yield from _dead_allowed(entry, ledger)
            yield from _rotated_out_allowed(entry, ledger)
        case Check(result=Result.FAIL):
            yield from _living_refused(entry, ledger)
        case Refresh(result=Result.OK):
            yield from _dead_refreshed(entry, ledger)
        case Refresh(result=Result.FAIL):
            yield from _refresh_refused(entry, ledger)
        case Revoke(result=Result.FAIL):
            why = f"revoking {entry.session} on {entry.at} was refused with {entry.status}"
            yield Breach("I5", why, entry.start)
        case Create(result=Result.FAIL):
            why = f"a log-in of {entry.user} on {entry.at} was refused with {entry.status}"
            yield Breach("I2", why, entry.start)


def _wrongly_named(check: Check) -> Iterator[Breach]:
    if check.road in WORTHLESS:
        return  # nobody was to be named
    if (check.named, check.named_session) != (check.user, check.session):
        named = f"{check.named} ({check.named_session})"
        why = f"{_token(check)} of {check.user} was allowed as {named}"
        yield Breach("I3", why, check.start)


def _worthless_allowed(check: Check) -> Iterator[Breach]:
    if check.road in WORTHLESS:
        yield Breach("I4", f"a token that is {check.road} was allowed on {check.at}", check.start)


def _dead_allowed(check: Check, ledger: Ledger) -> Iterator[Breach]:
    if check.session is None:
        return
    over = ledger.over(check.session)
    late = check.start - over
    if late > 0 and late > ledger.bound(over):
        why = f"{_token(check)} was allowed {late:.2f} s after its session was over"
        yield Breach("I5" if check.last else "I1", why, check.start)


def _rotated_out_allowed(check: Check, ledger: Ledger) -> Iterator[Breach]:
    if check.session is None or check.token is None:
        return
    out = ledger.rotated_out(check.session, check.token)
    late = check.start - out
    if late > 0 and late > ledger.bound(out - ledger.rules.grace):
        yield Breach("I6", f"{_token(check)} was allowed {late:.2f} s after its grace", check.start)


def _living_refused(check: Check, ledger: Ledger) -> Iterator[Breach]:
    if check.session is None or check.token is None or check.road in WORTHLESS:
        return
    reasons: tuple[Callable[[], bool], ...] = (
        lambda: ledger.may_be_over(check.session or "") <= check.end,
        lambda: ledger.may_be_rotated_out(check.session or "", check.token or 0) <= check.end,
        lambda: ledger.may_be_evicted(check.session or "", by=check.end),
    )
    if not any(reason() for reason in reasons):
        why = f"{_token(check)} is valid, and was refused with {check.status} ({check.road})"
        yield Breach("I5" if check.last else "I2", why, check.start)


def _dead_refreshed(refresh: Refresh, ledger: Ledger) -> Iterator[Breach]:
    if refresh.start > ledger.over(refresh.session):
        why = f"token {refresh.token} was refreshed after session {refresh.session} was over"
        yield Breach("I1", why, refresh.start)
    elif refresh.start > ledger.rotated_out(refresh.session, refresh.token) + ledger.rules.clocks:
        why = f"token {refresh.token} was refreshed again after its grace"
        yield Breach("I6", why, refresh.start)


def _refresh_refused(refresh: Refresh, ledger: Ledger) -> Iterator[Breach]:
    over = ledger.may_be_over(refresh.session)
    out = ledger.may_be_rotated_out(refresh.session, refresh.token)
    if min(over, out) > refresh.end:
        why = f"token {refresh.token} is valid, and its refresh was refused with {refresh.status}"
        yield Breach("I2", why, refresh.start)


def _two_successors(ledger: Ledger) -> Iterator[Breach]:
    for life in ledger.lives.values():
        first: dict[int, int] = {}
        for refresh in life.refreshes:
            if refresh.successor is None:
                continue
            if first.setdefault(refresh.token, refresh.successor) != refresh.successor:
                why = f"token {refresh.token} of session {refresh.session} has two successors"
                yield Breach("I6", why, refresh.start)


def _late(entries: list[Entry], rules: Rules) -> Iterator[Breach]:
    hurts = [entry for entry in entries if isinstance(entry, Hurt)]
    starved = [entry for entry in entries if isinstance(entry, Mark) and entry.starving]
    stalls = [
        entry
        for entry in entries
        if isinstance(entry, Stall) and not any(_meet(entry, fault) for fault in starved)
    ]
    for check in entries:
        if not isinstance(check, Check) or check.left or _is_in_time(check, rules, ()):
            continue
        if not _is_in_time(check, rules, stalls) and not _is_excused(check, hurts):
            when = f"after {(check.end - check.start) * 1000:.0f} ms" if check.status else "never"
            why = f"a check on {check.at} ({check.road}) was answered {when}"
            yield Breach("I9", why, check.start)


def _is_in_time(check: Check, rules: Rules, stalls: Iterable[Stall]) -> bool:
    waited = sum(
        stall.waited for stall in stalls if stall.who in (RIG, check.at) and _meet(stall, check)
    )
    took = check.end - check.start - waited
    return check.status != 0 and took <= rules.deadline


def _allowed_in_the_dark(entries: list[Entry], rules: Rules) -> Iterator[Breach]:
    for dark in [entry for entry in entries if isinstance(entry, Dark)]:
        for check in entries:
            if (
                isinstance(check, Check)
                and check.result is Result.OK
                and dark.start + rules.max_age + rules.clocks < check.start
                and check.end < dark.end
            ):
                cut_off = check.start - dark.start
                why = f"{_token(check)} was allowed after {cut_off:.1f} s without any store"
                yield Breach("I1", why, check.start)


def _is_excused(check: Check, hurts: Iterable[Hurt]) -> bool:
    return any(hurt.instance == check.at and _meet(hurt, check) for hurt in hurts)


def _meet(one: Entry, other: Entry) -> bool:
    return one.start <= other.end and other.start <= one.end


def _token(check: Check) -> str:
    whose = f"{check.road} token" if check.road is not Road.OVER else "token"
    return f"{whose} {check.token} on {check.at}"
