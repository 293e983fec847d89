"""Whether a Redis may be trusted: while changes may have been missed, its sessions are not used."""

from collections.abc import Mapping, Sequence

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import BatchCache
from sidegate.core.session import Session


class RedisTrust:
    """A cache backend whose lookups raise StoreUnavailable while it is distrusted.

    So do the lookups that are in flight when it becomes distrusted. Puts always go through.
    """

    def __init__(self, backend: BatchCache, *, store: str) -> None:
        """Start trusted. `store` is the name in StoreUnavailable."""
        self._backend = backend
        self._store = store
        self._is_distrusted = False
        self._distrust_count = 0

    def distrust(self) -> None:
        """Discard the results of lookups from now on, and of those in flight."""
        self._is_distrusted = True
        self._distrust_count += 1

    def trust(self) -> None:
        """Use the results of lookups that start from now on."""
        self._is_distrusted = False

    async def find_many(self, digests: Sequence[Digest]) -> Mapping[Digest, Session]:
        if self._is_distrusted:
            raise StoreUnavailable(self._store, "changes may have been missed")
        distrust_count = self._distrust_count
        found = await self._backend.find_many(digests)
        if distrust_count != self._distrust_count:
            raise StoreUnavailable(self._store, "changes may have been missed meanwhile")
        return found

    async def put_many(self, sessions: Mapping[Digest, Session]) -> Mapping[Digest, Session]:
        return await self._backend.put_many(sessions)
