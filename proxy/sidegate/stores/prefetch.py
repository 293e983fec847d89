"""Bring to memory what a hot store knows, for those who cannot await it."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.client.batched import BatchedCache
from sidegate.stores.memory import MemoryStore

_log: Final = logging.getLogger("sidegate.fetcher")


class Prefetcher:
    """Asks a hot store once for all that want a copy at the same time, and calls them back.

    No task is made for any of them. Whoever is told None has to go on to the other stores.
    """

    def __init__(
        self,
        hot: BatchedCache,
        local: MemoryStore,
        *,
        deadline: float,
        useless: Callable[[Digest], bool],
    ) -> None:
        """`deadline`: the seconds within which `hot` answers, whatever happens.

        `useless` says which digests need not be asked for here: nobody knew them a moment ago, or
        they are being looked up already. It must neither wait nor fail.
        """
        self._hot = hot
        self._local = local
        self._deadline = deadline
        self._useless = useless
        # A batch is shared by those of one tick; these, until their answer is here.
        self._under_way: dict[Digest, asyncio.Future[Session | None]] = {}

    def prefetch(
        self, digest: Digest, then: Callable[[Session | None], None], *, patience: float
    ) -> bool:
        """Tell `then` the session as it is, or None, within the deadline but after we return.

        None says nothing: neither that there is no session nor that there was an outage. False:
        there is no use in asking within `patience` seconds, and `then` is not told.
        """
        if patience < self._deadline or self._useless(digest):
            return False
        answer = self._under_way.get(digest)
        if answer is None:
            answer = self._under_way[digest] = self._hot.submit(digest)
            answer.add_done_callback(partial(self._answered, digest))
        answer.add_done_callback(lambda answer: then(self._kept(answer)))
        return True

    def _answered(self, digest: Digest, _: object) -> None:
        del self._under_way[digest]

    def _kept(self, answer: asyncio.Future[Session | None]) -> Session | None:
        """Keep the copy that has come, if one has."""
        self._local.misses += 1  # which `peek` has not counted
        try:
            copy = answer.result()
            return None if copy is None else self._local.put_nowait(copy)
        except (StoreUnavailable, UnreadableRecord, asyncio.CancelledError):
            return None
        except Exception:  # noqa: BLE001  # nobody above could tell; on the other roads they can
            _log.exception("a copy could not be fetched")
            return None
