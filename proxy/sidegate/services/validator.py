"""From a credential to a verdict: read the token, find the session, judge it."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from sidegate.core.clock import Clock
from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.judge import judge, may_be_stale
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import OnPrefetched, Prefetched
from sidegate.core.session import Session
from sidegate.core.timeouts import with_timeout
from sidegate.core.token import TokenText, digest_unverified
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.services.rules import RulesInForce


class Candidates(NamedTuple):
    """The different tokens of a request, as far as their format shows, by how they were sent."""

    others: tuple[TokenText, ...]  # by the Authorization header, for example
    cookies: tuple[TokenText, ...]
    embedded: tuple[TokenText, ...] = ()  # parts of other values, where they look like tokens


Presented = TokenText | Candidates
"""What a request presents: one token, or several."""

# Browsers send two cookies of one name, of a parent domain and of its child.
_MAX_COOKIES: Final = 2


class Lookup(Protocol):
    """Finds sessions in memory and in the stores, as `stores.lookup.SessionLookup` defines it."""

    @property
    def peek(self) -> Callable[[Digest], MemoryEntry | None]:
        """Return this process's entry, or None, without waiting."""
        ...

    def prefetch(self, digest: Digest, on_done: OnPrefetched, *, timeout: float) -> bool: ...

    async def find(self, digest: Digest, *, skip_redis: bool = False) -> Session | None: ...


# Share of the gateway's timeout that is used here; the rest is for the network.
_BUDGET_SHARE: Final = 0.9
_IDLE: Final = Deny(Reason.IDLE)


class Validator:
    """Judges tokens, whatever the stores do: an outage is Unavailable, never Deny."""

    def __init__(
        self,
        lookup: Lookup,
        *,
        rules: RulesInForce,
        clock: Clock,
        deadline: float,
        require_idle_known: Callable[[Session, datetime], None],
    ) -> None:
        """`deadline`: the seconds within which `lookup.find` returns or raises.

        `require_idle_known` raises StoreUnavailable if the session that it gets may only look idle.
        """
        self._lookup = lookup
        self._peek = lookup.peek
        self._rules = rules
        self._clock = clock
        self._deadline = deadline
        self._require_idle_known = require_idle_known

    def check_memory(self, token_text: TokenText, now: datetime) -> MemoryEntry | Deny | Digest:
        """Return the entry in memory if its session is valid `now`, or a denial.

        The digest of the token: memory does not decide it; use `prefetch` or `validate`.
        """
        digest = digest_unverified(token_text)
        entry, ring = self._peek(digest), self._rules.current.ring
        # A caller that has a token's digest has the token: its tag is verified once for each entry,
        # and again after the keys change.
        if entry is None or entry.verified_by is not ring:
            if not ring.has_valid_tag(token_text):
                return Deny(Reason.FORGED)
            if entry is None:
                return digest
            entry.verified_by = ring
        if now < entry.valid_until:
            return entry
        return _judge_entry(entry, now) or digest

    def prefetch(
        self,
        digest: Digest,
        on_done: OnPrefetched,
        *,
        budget: float | None = None,
    ) -> bool:
        """Start a lookup in the first store of the digest that `check_memory` returned.

        `on_done` is called with what `judge_prefetched` takes. False: nothing was started, as it
        would not be done within `budget` seconds, and `on_done` is not called.
        """
        return self._lookup.prefetch(digest, on_done, timeout=self._timeout(budget))

    def judge_prefetched(
        self, found: Prefetched, now: datetime
    ) -> MemoryEntry | Deny | Unavailable | None:
        """Judge what was prefetched, for a token whose tag `check_memory` has verified.

        None: `validate` looks in the other stores. The entry is not marked as verified: the keys
        may have changed since.
        """
        match found:
            case MemoryEntry():
                return _judge_entry(found, now)
            case StoreUnavailable():
                return Unavailable(found.store)
            case UnreadableRecord():
                return Unavailable("unreadable")
        return None

    async def validate(
        self,
        credential: str,
        *,
        budget: float | None = None,
        elapsed: float | None = None,
    ) -> Verdict:
        """Judge the session that `credential`, the text of a token, leads to. Records no activity.

        A credential that can be a token is Unavailable("clock") until the clock is set.
        `budget`: the seconds until the caller times out; None: no limit. `elapsed`: the seconds
        that a prefetch without result took; None: there was none.
        """
        found = await self._find(credential, budget, elapsed=elapsed, needs_time=True)
        return self._judge(found) if isinstance(found, Session) else found

    async def validate_presented(
        self, presented: Presented, *, budget: float | None = None, elapsed: float | None = None
    ) -> Verdict:
        """Judge the session that the tokens of a request lead to, as `validate` does.

        Of several, those without a valid tag are ignored. Two cookies are both looked up, and the
        one that opens a session counts. Deny(AMBIGUOUS) if they open two sessions, if there are
        more than two cookies, if another source has another token than the cookie, or if a token is
        only a part of a value.
        """
        if not isinstance(presented, Candidates):
            return await self.validate(presented.decode("ascii"), budget=budget, elapsed=elapsed)
        tokens = self._select(presented)
        if isinstance(tokens, Deny):
            return tokens
        lookups = (self.validate(token.decode("ascii"), budget=budget) for token in tokens)
        return _combine(await asyncio.gather(*lookups))

    def _select(self, candidates: Candidates) -> tuple[TokenText, ...] | Deny:
        """Return the tokens with a valid tag that may open the session, in their order."""
        has_valid_tag = self._rules.current.ring.has_valid_tag
        others, cookies, embedded = (tuple(filter(has_valid_tag, each)) for each in candidates)
        if embedded:
            return Deny(Reason.AMBIGUOUS)
        distinct = tuple(dict.fromkeys((*others, *cookies)))
        if not distinct:
            return Deny(Reason.FORGED)
        is_ambiguous = len(distinct) > (1 if others else _MAX_COOKIES)
        return Deny(Reason.AMBIGUOUS) if is_ambiguous else distinct

    async def find(self, credential: str) -> Session | Deny | Unavailable:
        """Return the session `credential` leads to, unjudged: ended or rotated out, too.

        For revoking it, for example, but never for allowing a request.
        """
        return await self._find(credential)

    async def _find(
        self,
        credential: str,
        budget: float | None = None,
        *,
        elapsed: float | None = None,
        needs_time: bool = False,
    ) -> Session | Deny | Unavailable:
        digest = self._rules.current.ring.parse_digest(credential)
        if isinstance(digest, Deny):
            return digest
        try:
            if needs_time:  # before the lookup, which would be for nothing
                self._clock.now()
            session = await self._look_up(digest, self._timeout(budget), elapsed=elapsed)
        except StoreUnavailable as outage:
            return Unavailable(outage.store)
        except UnreadableRecord:  # in the durable store: from a cache it would have been a miss
            return Unavailable("unreadable")
        return Deny(Reason.UNKNOWN) if session is None else session

    def _judge(self, session: Session) -> Verdict:
        """Judge a session of which `lookup.find` has returned the latest copy."""
        now = self._clock.now()
        verdict = judge(session, now)
        if verdict == _IDLE:
            try:
                self._require_idle_known(session, now)
            except StoreUnavailable as outage:
                return Unavailable(outage.store)
        return verdict

    async def _look_up(
        self, digest: Digest, seconds: float, *, elapsed: float | None
    ) -> Session | None:
        found = self._lookup.find(digest, skip_redis=elapsed is not None)
        remaining = max(0.0, seconds - (elapsed or 0.0))
        if remaining >= self._deadline:
            return await found  # keeps the deadline itself
        return await with_timeout(found, remaining, store="deadline")

    def _timeout(self, budget: float | None) -> float:
        if budget is None:
            return self._deadline
        return max(0.0, min(budget * _BUDGET_SHARE, self._deadline))


def _combine(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of tokens of which one may open a session."""
    opened: dict[str, Verdict] = {}
    denied: list[Verdict] = []
    for verdict in verdicts:
        match verdict:
            case Unavailable():
                return verdict  # it may open another session
            case Allow(session):
                if session.id not in opened or session.is_for_current_token:
                    opened[session.id] = verdict
            case Deny():
                denied.append(verdict)
    if len(opened) > 1:
        return Deny(Reason.AMBIGUOUS)
    return [*opened.values(), *denied][0]


def _judge_entry(entry: MemoryEntry, now: datetime) -> MemoryEntry | Deny | None:
    """Return the entry if valid, or a final denial; None: it may be stale."""
    if now < entry.valid_until:
        return entry
    verdict = judge(entry.session, now)
    return verdict if isinstance(verdict, Deny) and not may_be_stale(verdict) else None
