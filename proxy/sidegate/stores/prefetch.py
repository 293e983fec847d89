"""Prefetch sessions from a cache into memory, for callers that cannot await."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.session import Session
from sidegate.stores.client.batching import BatchedCache
from sidegate.stores.memory import MemoryStore

_log: Final = logging.getLogger("sidegate.prefetch")


class Prefetcher:
    """Looks up a digest once for all concurrent callers, without a task for each, and calls back.

    A caller that gets None has to look in the other stores.
    """

    def __init__(
        self,
        cache: BatchedCache,
        memory: MemoryStore,
        *,
        deadline: float,
        should_skip: Callable[[Digest], bool],
    ) -> None:
        """`deadline`: the seconds within which `cache` always answers or fails.

        `should_skip` returns True for digests in the negative cache, and for those whose look-up is
        in flight. It must neither wait nor raise.
        """
        self._cache = cache
        self._memory = memory
        self._deadline = deadline
        self._should_skip = should_skip
        # A batch is shared only by the callers of one tick; these, until the result is there.
        self._in_flight: dict[Digest, asyncio.Future[Session | None]] = {}

    def prefetch(
        self, digest: Digest, on_done: Callable[[Session | None], None], *, timeout: float
    ) -> bool:
        """Call `on_done` with the session or None, within the deadline but after this returns.

        None neither means that there is no session nor that there was an outage. Return False,
        without calling `on_done`, if a look-up within `timeout` seconds would be of no use.
        """
        if timeout < self._deadline or self._should_skip(digest):
            return False
        lookup = self._in_flight.get(digest)
        if lookup is None:
            lookup = self._in_flight[digest] = self._cache.submit(digest)
            lookup.add_done_callback(partial(self._remove, digest))
        lookup.add_done_callback(lambda lookup: on_done(self._put_in_memory(lookup)))
        return True

    def _remove(self, digest: Digest, _: object) -> None:
        del self._in_flight[digest]

    def _put_in_memory(self, lookup: asyncio.Future[Session | None]) -> Session | None:
        self._memory.misses += 1  # `get_nowait` has not counted it
        try:
            session = lookup.result()
            return None if session is None else self._memory.put_nowait(session)
        except (StoreUnavailable, UnreadableRecord, asyncio.CancelledError):
            return None
        except Exception:  # noqa: BLE001  # no caller can handle it: this is a callback of the loop
            _log.exception("prefetch failed")
            return None
