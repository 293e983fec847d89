"""A hot leaf that is asked only while somebody who knows has confirmed that it may be believed."""

from collections.abc import Mapping, Sequence

from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import BatchCache
from sidegate.core.session import Session
from sidegate.core.token import Digest


class RedisTrust:
    """In doubt look-ups are StoreUnavailable, also those under way when the doubt arose.

    What is put goes through: what it is told is true in any case.
    """

    def __init__(self, leaf: BatchCache, *, store: str) -> None:
        """Begin without doubt. `store` is the name in StoreUnavailable."""
        self._leaf = leaf
        self._store = store
        self._in_doubt = False
        self._doubts = 0

    def distrust(self) -> None:
        """From now on, and of what is being asked, believe nothing."""
        self._in_doubt = True
        self._doubts += 1

    def trust(self) -> None:
        """Believe it again."""
        self._in_doubt = False

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        if self._in_doubt:
            raise StoreUnavailable(self._store, "news may have been missed")
        doubts = self._doubts
        found = await self._leaf.find_many(digests)
        if doubts != self._doubts:
            raise StoreUnavailable(self._store, "news may have been missed meanwhile")
        return found

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        return await self._leaf.put_many(sessions)
