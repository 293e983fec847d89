"""Single flight: concurrent look-ups of one digest share one request and its result."""

import asyncio

from sidegate.core.digest import Digest
from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import SessionFinder
from sidegate.core.session import Session
from sidegate.stores.shared_future import share_future

InFlight = dict[Digest, asyncio.Task[Session | None]]
"""The look-ups in progress, by digest."""


class SingleFlight:
    """A finder with at most one look-up in flight for each digest, and a timeout for each caller.

    The look-up runs in its own task: a caller that is cancelled or times out does not cancel it.
    Results and errors are dropped when it ends; nothing is cached.
    """

    def __init__(
        self, finder: SessionFinder, *, timeout: float, in_flight: InFlight | None = None
    ) -> None:
        """A caller that has waited `timeout` seconds gets StoreUnavailable, with store "deadline".

        No store is named, since several may have been slow. `in_flight` may be shared between
        lookup paths to the same database.
        """
        self._finder = finder
        self._timeout = timeout
        self._in_flight: InFlight = {} if in_flight is None else in_flight

    async def find(self, digest: Digest) -> Session | None:
        result = share_future(self._in_flight.get(digest) or self._start(digest))
        timer = result.get_loop().call_later(self._timeout, self._expire, result)
        try:
            return await result
        finally:
            timer.cancel()

    def _start(self, digest: Digest) -> asyncio.Task[Session | None]:
        lookup = self._in_flight[digest] = asyncio.create_task(self._finder.find(digest))
        lookup.add_done_callback(lambda done: self._finish(digest, done))
        return lookup

    def _finish(self, digest: Digest, lookup: asyncio.Task[Session | None]) -> None:
        del self._in_flight[digest]
        if not lookup.cancelled():
            lookup.exception()  # mark it as retrieved: all callers may have been cancelled

    def _expire(self, result: asyncio.Future[Session | None]) -> None:
        if not result.done():
            reason = f"no answer within {self._timeout * 1000:.0f} ms"
            result.set_exception(StoreUnavailable("deadline", reason))
