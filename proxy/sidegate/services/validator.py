"""From a presented credential to a verdict: read the token, find the session, judge it."""

from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.judge import judge, may_have_moved
from sidegate.core.protocols import SessionFinder
from sidegate.core.session import Session
from sidegate.core.token import Digest, KeyRing, TokenText, unverified_digest_of
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.core.within import within

OnAllowed = Callable[[Session, datetime], None]
"""Told of each session that was allowed, and when; must neither wait nor fail."""

Memory = Callable[[Digest], Session | None]
"""What this process remembers, told without waiting."""


class Prefetch(Protocol):
    """Has a hot store asked: stores/fetcher.py says how."""

    def __call__(
        self, digest: Digest, then: Callable[[Session | None], None], *, patience: float
    ) -> bool: ...


ExtraCheck = Callable[[Session], Allow | Deny]
"""What else must hold of a session that is valid."""

# Of the time a gateway says it will wait, a tenth is for the way back.
_OURS: Final = 0.9


class Validator:
    """Answers for a token, whatever the stores do: an outage is Unavailable, never a no."""

    def __init__(
        self,
        finder: SessionFinder,
        *,
        ring: KeyRing,
        clock: Clock,
        deadline: float,
        memory: Memory = lambda _: None,
        fetch: Prefetch | None = None,
        onward: SessionFinder | None = None,
        seen: OnAllowed = lambda _, __: None,
    ) -> None:
        """`deadline`: the seconds within which `finder` answers, whatever happens.

        `recall` looks into `memory`, and `fetch` is asked for what is not there. `onward` is the
        rest of the road for those it told nothing; None: the whole. `finder` needs none of them:
        it has its own way to every store.
        """
        self._finder = finder
        self._ring = ring
        self._clock = clock
        self._deadline = deadline
        self._memory = memory
        self._fetch = fetch
        self._onward = onward or finder
        self.on_allowed = seen

    def check_memory(self, spelling: TokenText, now: datetime) -> Session | Deny | None:
        """Return the session from this process's memory if it is valid `now`, or why it is not.

        None: memory cannot tell for certain; `validate` asks the stores. Whoever lets the session
        in tells `saw`.
        """
        session = self._memory(unverified_digest_of(spelling))
        # Whoever has the digest of a token has the token: its tag is verified once for each copy,
        # and again under other keys.
        if session is None or session.verified_by is not self._ring:
            if not self._ring.has_tagged(spelling):
                return Deny(Reason.FORGED)
            if session is None:
                return None
            session.note_verified(self._ring)
        return _for_certain(session, now)

    def prefetch(
        self,
        spelling: TokenText,
        then: Callable[[Session | None], None],
        *,
        budget: float | None = None,
    ) -> bool:
        """Have a hot store asked what `recall` could not tell. `fetched` takes what `then` gets.

        False: there is no use in that within `budget` seconds, and `then` is not told.
        """
        if self._fetch is None:
            return False
        digest = unverified_digest_of(spelling)
        return self._fetch(digest, then, patience=self._timeout(budget))

    def judge_prefetched(self, copy: Session | None, now: datetime) -> Session | Deny | None:
        """Return what `recall` would, had it found this copy. It has verified the tag already.

        None: `validate` asks the other stores.
        """
        if copy is None:
            return None
        copy.note_verified(self._ring)
        return _for_certain(copy, now)

    async def validate(
        self,
        credential: str,
        *,
        budget: float | None = None,
        waited: float | None = None,
        further: ExtraCheck | None = None,
    ) -> Verdict:
        """Judge the session that `credential`, the text of a token, leads to.

        `budget`: the seconds the caller waits for the answer; None: as long as it takes. `waited`:
        those it took to fetch nothing; None: nobody has tried. `further` is asked about a valid
        session, before it counts as seen; None: nothing is.
        """
        verdict = await self._judged(credential, budget, waited)
        if further is not None and isinstance(verdict, Allow):
            verdict = further(verdict.session)
        if isinstance(verdict, Allow):
            self.on_allowed(verdict.session, self._clock.now())
        return verdict

    async def inspect(self, credential: str) -> Verdict:
        """Judge as `validate` does, but let nobody be seen: whoever asks is not the client."""
        return await self._judged(credential)

    async def find(self, credential: str) -> Session | Deny | Unavailable:
        """Return the session `credential` leads to, unjudged: ended or rotated away from, too.

        To end it, say, but never to let anybody in.
        """
        return await self._find(credential)

    async def _judged(
        self, credential: str, budget: float | None = None, waited: float | None = None
    ) -> Verdict:
        found = await self._find(credential, budget, waited)
        return judge(found, self._clock.now()) if isinstance(found, Session) else found

    async def _find(
        self, credential: str, budget: float | None = None, waited: float | None = None
    ) -> Session | Deny | Unavailable:
        digest = self._ring.digest(credential)
        if isinstance(digest, Deny):
            return digest
        try:
            session = await self._looked_up(digest, self._timeout(budget), waited)
        except StoreUnavailable as outage:
            return Unavailable(outage.store)
        except UnreadableRecord:  # of the durable store, or the next one would have been asked
            return Unavailable("unreadable")
        return Deny(Reason.UNKNOWN) if session is None else session

    async def _looked_up(
        self, digest: Digest, patience: float, waited: float | None
    ) -> Session | None:
        if waited is not None:
            rest = max(0.0, patience - waited)
            return await within(rest, "deadline", self._onward.find(digest))
        if patience < self._deadline:
            return await within(patience, "deadline", self._finder.find(digest))
        return await self._finder.find(digest)  # answers within the deadline itself

    def _timeout(self, budget: float | None) -> float:
        return self._deadline if budget is None else max(0.0, min(budget * _OURS, self._deadline))


def _for_certain(copy: Session, now: datetime) -> Session | Deny | None:
    """Return the session if it is valid, or why it is not; None: a newer copy may differ."""
    if now < copy.valid_until:
        return copy
    verdict = judge(copy, now)
    return verdict if isinstance(verdict, Deny) and not may_have_moved(verdict) else None
