"""Send the look-ups of one loop tick as one round trip."""

import asyncio
from collections.abc import Mapping

from proxy.core.errors import UnreadableRecord
from proxy.core.protocols import BatchFinder, HotLeaf
from proxy.core.session import Session
from proxy.core.token import Digest
from proxy.stores.share import share

_Waiting = dict[Digest, asyncio.Future[Session | None]]


class Batched:
    """A finder in front of a leaf that answers many questions at once.

    Whoever asks first in a tick opens a batch, and the batch leaves when the tick ends. It belongs
    to nobody who waits: a caller that leaves takes nothing from the others.
    """

    def __init__(self, leaf: BatchFinder, *, max_batch: int = 256) -> None:
        """`max_batch` bounds one round trip; a tick that asks for more sends several."""
        self._leaf = leaf
        self._max_batch = max_batch
        self._waiting: _Waiting = {}
        self._batches: set[asyncio.Task[None]] = set()

    async def find(self, digest: Digest) -> Session | None:
        future = self._waiting.get(digest)
        if future is None:
            loop = asyncio.get_running_loop()
            if not self._waiting:
                loop.call_soon(self._depart)
            future = self._waiting[digest] = loop.create_future()
        return await share(future)

    def _depart(self) -> None:
        everybody, self._waiting = list(self._waiting.items()), {}
        for start in range(0, len(everybody), self._max_batch):
            batch = asyncio.create_task(self._fly(dict(everybody[start : start + self._max_batch])))
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)

    async def _fly(self, waiting: _Waiting) -> None:
        try:
            found = await self._ask(waiting)
        except BaseException as error:
            for future in waiting.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # mark it as seen: everybody who waited may have left
            if not isinstance(error, Exception):
                raise
        else:
            for digest, future in waiting.items():
                if not future.done():
                    future.set_result(found.get(digest))

    async def _ask(self, waiting: _Waiting) -> Mapping[Digest, Session]:
        try:
            return await self._leaf.find_many(tuple(waiting))
        except UnreadableRecord:
            if len(waiting) == 1:
                raise
        # One bad record must not speak for its neighbours: ask for each alone.
        found: dict[Digest, Session] = {}
        for digest, future in waiting.items():
            try:
                found.update(await self._leaf.find_many((digest,)))
            except UnreadableRecord as error:
                future.set_exception(error)
                future.exception()
        return found


class BatchedHot(Batched):
    """A hot store in front of a leaf. Only look-ups are gathered."""

    def __init__(self, leaf: HotLeaf, *, max_batch: int = 256) -> None:
        super().__init__(leaf, max_batch=max_batch)
        self._hot = leaf

    async def put(self, session: Session) -> Session:
        return await self._hot.put(session)
