"""This process's own memory: bounded, and each copy is believed for a few seconds only."""

import random
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final

from sidegate.core.clock import Clock
from sidegate.core.session import Session
from sidegate.core.token import Digest

# What a copy takes without its texts, in bytes: itself, its place here, and the answer noted in its
# margin. Measured, as all of `size_of` is (tests/stores/test_local_size.py).
_FIXED: Final = 935
_BOUND: Final = 350  # with what its client has shown, part of which many others show
_SCOPE: Final = 60  # is counted for each, for nobody knows how many sessions will share it
_NAMES: Final = 74  # characters of the names of an answer's headers, as shipped

# Ages are shortened by up to a tenth at random: copies made together must not be asked for again
# together.
_JITTER: Final = 0.1

_LONG_AGO: Final = float("-inf")


class MemoryStore:
    """A hot store without a wire. The least recently found copies are forgotten first.

    A copy that is too old is not answered any more, but is kept for comparison: a late fill with a
    staler copy still loses to it.

    `hits`, `misses` and `size` (in bytes, as `size_of` estimates) are for whoever wants to know.
    """

    def __init__(
        self,
        *,
        max_sessions: int,
        max_bytes: int,
        max_age: float,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
        applied: Callable[[Session], Session] = lambda session: session,
    ) -> None:
        """Keep at most `max_sessions` copies, estimated at no more than `max_bytes`.

        Each is answered for at most `max_age` seconds of `monotonic`. `applied` says how a session
        is, whatever its copy says; it must neither wait nor fail.
        """
        self.hits = 0
        self.misses = 0
        self._estimated = 0
        self._beyond = 0  # bytes of each copy that `size_of` does not know of
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._monotonic = clock.monotonic
        self._jitter = jitter
        self._applied = applied
        self._copies: OrderedDict[Digest, tuple[Session, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def size(self) -> int:
        return self._estimated + self._beyond * len(self._copies)

    async def find(self, digest: Digest) -> Session | None:
        """Never waits: a hit makes no task, takes no lock and touches no socket."""
        session = self.get_nowait(digest)
        if session is None:
            self.misses += 1
        return session

    async def put(self, session: Session) -> Session:
        """Never waits."""
        return self.put_nowait(session)

    def get_nowait(self, digest: Digest) -> Session | None:
        """Find, for those who cannot await. A miss is not counted: they will go on, and be then."""
        copy = self._copies.get(digest)
        if copy is None or self._monotonic() >= copy[1]:
            return None
        self._copies.move_to_end(digest)
        self.hits += 1
        return self._applied(copy[0])

    def set_reply_headers(self, headers: Collection[str]) -> None:
        """Take into account that each answer that is kept with a copy names these headers."""
        self._beyond = max(0, sum(map(len, headers)) - _NAMES)
        self._make_room()

    def put_nowait(self, session: Session) -> Session:
        """Put, for those who cannot await. An equal copy counts as news: its age starts again."""
        kept, _ = self._copies.get(session.digest, (None, 0.0))
        if kept is not None:
            if kept.freshness > session.freshness:
                return self._applied(kept)
            self._estimated -= size_of(kept)
            if kept == session:
                session = kept  # with what is noted in its margin
        self._estimated += size_of(session)
        self._copies[session.digest] = session, self._monotonic() + self._lifespan()
        self._copies.move_to_end(session.digest)
        self._make_room()
        return self._applied(session)

    def touch(self, session: Session) -> None:
        """Take in that a session was seen. Its copy is believed no longer for that."""
        kept, until = self._copies.get(session.digest, (None, 0.0))
        if kept is None or kept.freshness > session.freshness:
            return
        self._estimated += size_of(session) - size_of(kept)
        self._copies[session.digest] = session, until

    def expire_all(self) -> None:
        """Believe no copy of before, as after a stretch of news that may have been missed.

        They stay for comparison: who was known to be dead does not come back by a staler copy.
        """
        for digest, (session, _) in self._copies.items():
            self._copies[digest] = session, _LONG_AGO

    def clear(self) -> None:
        """Forget everything, as when the truth itself has gone back in time."""
        self._copies.clear()
        self._estimated = 0

    def _make_room(self) -> None:
        while len(self._copies) > self._max_sessions or self.size > self._max_bytes:
            _, (session, _) = self._copies.popitem(last=False)
            self._estimated -= size_of(session)

    def _lifespan(self) -> float:
        return self._max_age * (1 - _JITTER * self._jitter())


def size_of(session: Session) -> int:
    """Estimate how many bytes a copy takes, with the answer that is kept with it."""
    # As a text and in an answer, where a character beyond ASCII takes up to twelve.
    user = 2 * len(session.user_id) if session.user_id.isascii() else 16 * len(session.user_id)
    bound = _BOUND + len(session.binding) if session.binding else 0
    scopes = session.scopes  # also in the answer
    return _FIXED + user + _SCOPE * len(scopes) + 2 * sum(map(len, scopes)) + bound
