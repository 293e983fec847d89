"""Send what is asked in one loop tick as one round trip."""

import asyncio
from collections.abc import Mapping
from typing import Final

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import BatchCache, BatchFinder
from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.client.flights import UNLIMITED, Batcher, BatcherFull

_Answers = Mapping[Digest, Session | Exception | None]

# So many look-ups, or copies that are put, in one round trip. A put costs about four times as much.
_LOOKUPS: Final = 256
_PUTS: Final = 64


class Batched:
    """A finder in front of a leaf that answers many questions at once.

    With bounds it is the store's bulkhead: a slow store is asked fewer and larger questions, and
    what would wait in vain is unavailable at once.
    """

    def __init__(
        self,
        leaf: BatchFinder,
        *,
        store: str = "",
        max_batch: int = _LOOKUPS,
        max_flights: int = UNLIMITED,
        max_waiting: int = UNLIMITED,
        late: float | None = None,
    ) -> None:
        """At most `max_flights` round trips of `max_batch` digests each are under way, not counting
        those that have been for `late` seconds.

        Beyond `max_waiting` digests that wait or are under way, `store` is unavailable.
        """
        self._leaf = leaf
        self._store = store
        self._lookups = Batcher[None, Session | None](
            self._ask,
            merge=lambda _, __: None,
            max_batch=max_batch,
            max_flights=max_flights,
            max_waiting=max_waiting,
            late=late,
        )

    def round_trips(self) -> int:
        """Return how many there were for look-ups, so far."""
        return self._lookups.departed

    async def find(self, digest: Digest) -> Session | None:
        return await self.submit(digest)

    def submit(self, digest: Digest) -> asyncio.Future[Session | None]:
        """Return the answer to come, which is the caller's alone, for those who cannot await it.

        StoreUnavailable, at once: so many wait that it would not come in time.
        """
        try:
            return self._lookups.submit(digest, None)
        except BatcherFull:
            raise StoreUnavailable(self._store, "too many look-ups at once") from None

    async def _ask(self, asked: Mapping[Digest, None]) -> _Answers:
        try:
            found = await self._leaf.find_many(tuple(asked))
        except UnreadableRecord:
            if len(asked) == 1:
                raise
            return await self._one_by_one(asked)
        return {digest: found.get(digest) for digest in asked}

    async def _one_by_one(self, asked: Mapping[Digest, None]) -> _Answers:
        """One bad record must not speak for its neighbours; an outage does."""
        answers: dict[Digest, Session | Exception | None] = {}
        for digest in asked:
            try:
                answers[digest] = (await self._leaf.find_many((digest,))).get(digest)
            except UnreadableRecord as error:
                answers[digest] = error
            except StoreUnavailable as outage:
                return dict.fromkeys(asked, outage) | answers
        return answers


class BatchedCache(Batched):
    """A hot store in front of a leaf. What is put in one tick travels together, too.

    Two round trips for look-ups at a time: while they are under way the next one fills, and costs
    less a digest. One that takes longer than `LATE` seconds holds nobody up any more; so nobody
    waits longer than that on top of what the leaf takes.
    """

    LATE: Final = 0.010

    def __init__(
        self, leaf: BatchCache, *, max_batch: int = _LOOKUPS, max_puts: int = _PUTS
    ) -> None:
        super().__init__(leaf, max_batch=max_batch, max_flights=2, late=self.LATE)
        self._puts = Batcher[Session, Session](leaf.put_many, merge=_fresher, max_batch=max_puts)

    async def put(self, session: Session) -> Session:
        return await self._puts.submit(session.digest, session)


def _fresher(one: Session, other: Session) -> Session:
    return one if one.freshness > other.freshness else other
