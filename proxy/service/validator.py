"""From a presented credential to a verdict: read the token, find the session, judge it."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from proxy.core.clock import Clock
from proxy.core.errors import StoreUnavailable, UnreadableRecord
from proxy.core.judge import judge, may_have_moved
from proxy.core.protocols import SessionFinder
from proxy.core.session import Session
from proxy.core.token import Digest, KeyRing, Spelling, unverified_digest_of
from proxy.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from proxy.core.within import within

Seen = Callable[[Session, datetime], None]
"""Told of each session that was allowed, and when; must neither wait nor fail."""

Memory = Callable[[Digest], Session | None]
"""What this process remembers, told without waiting."""

Further = Callable[[Session], Allow | Deny]
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
        seen: Seen = lambda _, __: None,
    ) -> None:
        """`deadline`: the seconds within which `finder` answers, whatever happens.

        `memory` is what `recall` looks into, and no other road: `finder` has its own way to it.
        """
        self._finder = finder
        self._ring = ring
        self._clock = clock
        self._deadline = deadline
        self._memory = memory
        self.saw = seen

    def recall(self, spelling: Spelling, now: datetime) -> Session | Deny | None:
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
        if now < session.valid_until:
            return session
        verdict = judge(session, now)
        return verdict if isinstance(verdict, Deny) and not may_have_moved(verdict) else None

    async def validate(
        self, credential: str, *, budget: float | None = None, further: Further | None = None
    ) -> Verdict:
        """Judge the session that `credential`, the text of a token, leads to.

        `budget`: the seconds the caller waits for the answer; None: as long as it takes.
        `further` is asked about a valid session, before it counts as seen; None: nothing is.
        """
        verdict = await self._judged(credential, budget)
        if further is not None and isinstance(verdict, Allow):
            verdict = further(verdict.session)
        if isinstance(verdict, Allow):
            self.saw(verdict.session, self._clock.now())
        return verdict

    async def look(self, credential: str) -> Verdict:
        """Judge as `validate` does, but let nobody be seen: whoever asks is not the client."""
        return await self._judged(credential, None)

    async def find(self, credential: str) -> Session | Deny | Unavailable:
        """Return the session `credential` leads to, unjudged: ended or rotated away from, too.

        To end it, say, but never to let anybody in.
        """
        return await self._find(credential, None)

    async def _judged(self, credential: str, budget: float | None) -> Verdict:
        found = await self._find(credential, budget)
        return judge(found, self._clock.now()) if isinstance(found, Session) else found

    async def _find(self, credential: str, budget: float | None) -> Session | Deny | Unavailable:
        digest = self._ring.digest(credential)
        return digest if isinstance(digest, Deny) else await self._look_up(digest, budget)

    async def _look_up(self, digest: Digest, budget: float | None) -> Session | Deny | Unavailable:
        try:
            session = await self._in_time(digest, budget)
        except StoreUnavailable as outage:
            return Unavailable(outage.store)
        except UnreadableRecord:  # of the durable store, or the next one would have been asked
            return Unavailable("unreadable")
        return Deny(Reason.UNKNOWN) if session is None else session

    async def _in_time(self, digest: Digest, budget: float | None) -> Session | None:
        if budget is None or budget * _OURS >= self._deadline:
            return await self._finder.find(digest)  # answers within the deadline itself
        patience = max(0.0, budget * _OURS)
        return await within(patience, "deadline", self._finder.find(digest))
