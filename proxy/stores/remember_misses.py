"""Remember for a moment which digests nobody knows, so that asking again costs nothing."""

from collections import OrderedDict

from proxy.core.clock import Clock
from proxy.core.protocols import SessionFinder
from proxy.core.session import Session
from proxy.core.token import Digest


class RememberMisses:
    """A finder that answers repeated misses itself, from a bounded place of their own.

    A digest that is unknown now can only become known by being minted, and nobody can ask for a
    token before it is minted; so a remembered miss does no harm. Outages are not remembered.
    """

    def __init__(
        self, finder: SessionFinder, *, max_digests: int, max_age: float, clock: Clock
    ) -> None:
        """Remember at most `max_digests` misses, each for `max_age` seconds."""
        self._finder = finder
        self._max_digests = max_digests
        self._max_age = max_age
        self._monotonic = clock.monotonic
        self._until: OrderedDict[Digest, float] = OrderedDict()

    async def find(self, digest: Digest) -> Session | None:
        if self._monotonic() < self._until.get(digest, 0.0):
            return None
        session = await self._finder.find(digest)
        if session is None:
            self._remember(digest)
        return session

    def _remember(self, digest: Digest) -> None:
        self._until[digest] = self._monotonic() + self._max_age
        self._until.move_to_end(digest)
        while len(self._until) > self._max_digests:
            self._until.popitem(last=False)
