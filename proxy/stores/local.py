"""This process's own memory: bounded, and each copy is believed for a few seconds only."""

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from proxy.core.clock import Clock
from proxy.core.session import Session
from proxy.core.token import Digest

# Ages are shortened by up to a tenth at random: copies made together must not be asked for again
# together.
_JITTER: Final = 0.1


class LocalStore:
    """A hot store without a wire. The least recently found copies are forgotten first.

    A copy that is too old is not answered any more, but is kept for comparison: a late fill with a
    staler copy still loses to it.
    """

    def __init__(
        self,
        *,
        max_sessions: int,
        max_age: float,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
        applied: Callable[[Session], Session] = lambda session: session,
    ) -> None:
        """Keep at most `max_sessions` copies, each for at most `max_age` seconds of `monotonic`.

        `applied` says how a session is, whatever its copy says; it must neither wait nor fail.
        """
        self._max_sessions = max_sessions
        self._max_age = max_age
        self._monotonic = clock.monotonic
        self._jitter = jitter
        self._applied = applied
        self._copies: OrderedDict[Digest, tuple[Session, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._copies)

    async def find(self, digest: Digest) -> Session | None:
        """Never waits: a hit makes no task, takes no lock and touches no socket."""
        return self.peek(digest)

    async def put(self, session: Session) -> Session:
        """Never waits."""
        return self.keep(session)

    def peek(self, digest: Digest) -> Session | None:
        """Find, for those who cannot await."""
        copy = self._copies.get(digest)
        if copy is None or self._monotonic() >= copy[1]:
            return None
        self._copies.move_to_end(digest)
        return self._applied(copy[0])

    def keep(self, session: Session) -> Session:
        """Put, for those who cannot await. An equal copy counts as news: its age starts again."""
        kept = self._copies.get(session.digest)
        if kept is not None and kept[0].freshness > session.freshness:
            return self._applied(kept[0])
        self._copies[session.digest] = session, self._monotonic() + self._lifespan()
        self._copies.move_to_end(session.digest)
        while len(self._copies) > self._max_sessions:
            self._copies.popitem(last=False)
        return self._applied(session)

    def clear(self) -> None:
        """Forget everything, as after a stretch of news that may have been missed."""
        self._copies.clear()

    def _lifespan(self) -> float:
        return self._max_age * (1 - _JITTER * self._jitter())
