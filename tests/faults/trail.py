"""What must hold of lists, and when nothing goes on any more: I5, I7, I8, I12. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import inf

from tests.faults.history import (
    Check,
    Create,
    Entry,
    Event,
    Listing,
    Living,
    Result,
)
from tests.faults.ledger import Ledger, Life
from tests.faults.rules import Breach, Rules


def breaches_at_rest(history: Iterable[Entry], rules: Rules | None = None) -> list[Breach]:
    """Return what the end of a run shows. Without a single event the trail is not judged."""
    entries = list(history)
    ledger = Ledger(entries, rules or Rules())
    found = [*_unanswered(entries), *_over_the_limit(entries)]
    events = [entry for entry in entries if isinstance(entry, Event)]
    if events:
        found += _trail(events, entries, ledger)
    return found


def wrong_lists(history: Iterable[Entry], rules: Rules | None = None) -> list[Breach]:
    """Return the lists that left out who surely lived, or showed who surely was over: I5."""
    entries = list(history)
    ledger = Ledger(entries, rules or Rules())
    sure: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for create in entries:
        if isinstance(create, Create) and create.session and create.limit is None:
            sure[create.user].append((create.end, create.session))
    return [
        breach
        for listing in entries
        if isinstance(listing, Listing) and listing.result is Result.OK
        for breach in _wrong_list(listing, sure[listing.user], ledger)
    ]


def _wrong_list(
    listing: Listing, begun: Sequence[tuple[float, str]], ledger: Ledger
) -> Iterator[Breach]:
    for since, session in begun:
        lives = since < listing.start and ledger.may_be_over(session) > listing.end
        if lives and session not in listing.sessions:
            yield Breach("I5", f"session {session} lives, and is not listed", listing.start)
    for session in listing.sessions:
        if ledger.over(session) < listing.start:
            yield Breach("I5", f"session {session} is over, and is listed", listing.start)


def _unanswered(entries: Sequence[Entry]) -> Iterator[Breach]:
    latest = {
        entry.token: entry
        for entry in entries
        if isinstance(entry, Check) and entry.last and not entry.retried
    }
    for check in latest.values():
        if check.result is Result.INFO:
            why = f"token {check.token} had no answer after the restart ({check.status})"
            yield Breach("I12", why, check.start)


def _over_the_limit(entries: Sequence[Entry]) -> Iterator[Breach]:
    for living in entries:
        if isinstance(living, Living) and living.sessions > living.limit:
            why = f"{living.user} has {living.sessions} living sessions, {living.limit} at most"
            yield Breach("I7", why, living.start)


def _trail(events: Sequence[Event], entries: Sequence[Entry], ledger: Ledger) -> Iterator[Breach]:
    by_session: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_session[event.session].append(event)
    for session, life in ledger.lives.items():
        for why in _mismatch(life, by_session.get(session, []), session, ledger):
            yield Breach("I8", f"session {session}: {why}", events[0].start)
    yield from _begun_by_nobody(by_session, entries, ledger)


def _mismatch(life: Life, events: Sequence[Event], session: str, ledger: Ledger) -> Iterator[str]:
    done = Counter(event.action for event in events)
    versions = sorted(event.version for event in events)
    if versions != list(range(1, len(versions) + 1)):
        yield f"its events are of the versions {versions}"
    if life.creates and done["create"] != 1:
        yield f"{done['create']} events tell of its beginning"
    acknowledged = any(map(ledger.is_sure, life.revokes))
    if done["revoke"] > 1 or (acknowledged and not done["revoke"]):
        yield f"{done['revoke']} events tell of its end"
    asked_for = ledger.may_be_over(session) < inf or ledger.may_be_evicted(session, by=inf)
    if done["revoke"] and not asked_for:
        yield "an event tells that it was revoked, and nobody asked for it"
    least, most = _rotations(life)
    if not least <= done["refresh"] <= most:
        yield f"{done['refresh']} events tell of its refreshes, not {least} to {most}"


def _rotations(life: Life) -> tuple[int, int]:
    """Return how often it was rotated at least and at most: asking twice rotates once."""
    sure = {refresh.token for refresh in life.refreshes if refresh.result is Result.OK}
    perhaps = {refresh.token for refresh in life.refreshes if refresh.result is Result.INFO}
    return len(sure), len(sure | perhaps)


def _begun_by_nobody(
    by_session: dict[str, list[Event]], entries: Sequence[Entry], ledger: Ledger
) -> Iterator[Breach]:
    """A session nobody was told of can only come from a log-in that had no answer."""
    answered = {create.key for create in entries if isinstance(create, Create) and create.session}
    lost: Counter[str] = Counter()
    for key, user in {
        (create.key, create.user)
        for create in entries
        if isinstance(create, Create) and create.key not in answered
    }:
        del key
        lost[user] += 1
    strangers = Counter(
        events[0].user for session, events in by_session.items() if session not in ledger.lives
    )
    for user, number in strangers.items():
        if number > lost[user]:
            why = f"{number} sessions of {user} begun, and {lost[user]} log-ins without an answer"
            yield Breach("I8", why, 0.0)
