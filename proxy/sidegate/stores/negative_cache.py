"""Remember unknown digests for a short time, so that repeated lookups reach no store."""

from collections import OrderedDict

from sidegate.core.clock import Clock
from sidegate.core.digest import Digest


class NegativeCache:
    """A bounded set of digests that were unknown to the database a short time ago.

    An unknown digest becomes known only when its token is minted, and no client can send a token
    before that; so a remembered miss does no harm.
    """

    def __init__(self, *, max_digests: int, max_age: float, clock: Clock) -> None:
        """Remember at most `max_digests` misses, each for `max_age` seconds."""
        self._max_digests = max_digests
        self._max_age = max_age
        self._monotonic = clock.monotonic
        self._expires_at: OrderedDict[Digest, float] = OrderedDict()

    def __contains__(self, digest: Digest) -> bool:
        expires_at = self._expires_at.get(digest)
        return expires_at is not None and self._monotonic() < expires_at

    def add(self, digest: Digest) -> None:
        self._expires_at[digest] = self._monotonic() + self._max_age
        self._expires_at.move_to_end(digest)
        while len(self._expires_at) > self._max_digests:
            self._expires_at.popitem(last=False)
