"""Remember for a moment which digests nobody knows, so that asking again costs nothing."""

from collections import OrderedDict

from sidegate.core.clock import Clock
from sidegate.core.protocols import SessionFinder
from sidegate.core.session import Session
from sidegate.core.token import Digest


class NegativeCache:
    """A bounded place for digests that nobody knew a moment ago.

    A digest that is unknown now can only become known by being minted, and nobody can ask for a
    token before it is minted; so a remembered miss does no harm.
    """

    def __init__(self, *, max_digests: int, max_age: float, clock: Clock) -> None:
        """Remember at most `max_digests` misses, each for `max_age` seconds."""
        self._max_digests = max_digests
        self._max_age = max_age
        self._monotonic = clock.monotonic
        self._until: OrderedDict[Digest, float] = OrderedDict()

    def __contains__(self, digest: Digest) -> bool:
        return self._monotonic() < self._until.get(digest, 0.0)

    def add(self, digest: Digest) -> None:
        self._until[digest] = self._monotonic() + self._max_age
        self._until.move_to_end(digest)
        while len(self._until) > self._max_digests:
            self._until.popitem(last=False)


class NegativeCaching:
    """A finder that answers repeated misses itself. Outages are not remembered."""

    def __init__(self, finder: SessionFinder, *, misses: NegativeCache) -> None:
        """`misses` may be shared with other roads to the same truth."""
        self._finder = finder
        self._misses = misses

    async def find(self, digest: Digest) -> Session | None:
        if digest in self._misses:
            return None
        session = await self._finder.find(digest)
        if session is None:
            self._misses.add(digest)
        return session
