"""A hot store that is asked only while somebody who knows has confirmed that it may be believed."""

from proxy.core.errors import StoreUnavailable
from proxy.core.protocols import HotStore
from proxy.core.session import Session
from proxy.core.token import Digest


class Confirmed:
    """In doubt `find` is StoreUnavailable, also for what was being asked when the doubt arose.

    `put` goes through: what it is told is true in any case.
    """

    def __init__(self, hot: HotStore, *, store: str) -> None:
        """Begin without doubt. `store` is the name in StoreUnavailable."""
        self._hot = hot
        self._store = store
        self._in_doubt = False
        self._doubts = 0

    def doubt(self) -> None:
        """From now on, and of what is being asked, believe nothing."""
        self._in_doubt = True
        self._doubts += 1

    def confirm(self) -> None:
        """Believe it again."""
        self._in_doubt = False

    async def find(self, digest: Digest) -> Session | None:
        if self._in_doubt:
            raise StoreUnavailable(self._store, "news may have been missed")
        doubts = self._doubts
        session = await self._hot.find(digest)
        if doubts != self._doubts:
            raise StoreUnavailable(self._store, "news may have been missed meanwhile")
        return session

    async def put(self, session: Session) -> Session:
        return await self._hot.put(session)
