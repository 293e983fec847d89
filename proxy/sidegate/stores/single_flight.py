"""One flight per digest: whoever asks for what is being looked up shares the answer."""

import asyncio

from sidegate.core.errors import StoreUnavailable
from sidegate.core.protocols import SessionFinder
from sidegate.core.session import Session
from sidegate.core.token import Digest
from sidegate.stores.share import share

InFlight = dict[Digest, asyncio.Task[Session | None]]
"""The flights that have not landed yet."""


class SingleFlight:
    """A finder that never asks twice at once for the same digest, and lets nobody wait for long.

    The flight belongs to nobody who waits for it: a caller that leaves, or has waited too long,
    cancels nothing. Answers and errors end with the flight; nothing is remembered.
    """

    def __init__(
        self, finder: SessionFinder, *, patience: float, under_way: InFlight | None = None
    ) -> None:
        """Whoever has waited `patience` seconds is told that `deadline` was unavailable.

        For nobody knows whose fault it was. What is `under_way` may be shared with other roads to
        the same truth.
        """
        self._finder = finder
        self._patience = patience
        self._flights: InFlight = {} if under_way is None else under_way

    async def find(self, digest: Digest) -> Session | None:
        answer = share(self._flights.get(digest) or self._flight(digest))
        clock = answer.get_loop().call_later(self._patience, self._too_late, answer)
        try:
            return await answer
        finally:
            clock.cancel()

    def _flight(self, digest: Digest) -> asyncio.Task[Session | None]:
        flight = self._flights[digest] = asyncio.create_task(self._finder.find(digest))
        flight.add_done_callback(lambda done: self._landed(digest, done))
        return flight

    def _landed(self, digest: Digest, flight: asyncio.Task[Session | None]) -> None:
        del self._flights[digest]
        if not flight.cancelled():
            flight.exception()  # mark it as seen: everybody who waited may have left

    def _too_late(self, answer: asyncio.Future[Session | None]) -> None:
        if not answer.done():
            reason = f"no answer within {self._patience * 1000:.0f} ms"
            answer.set_exception(StoreUnavailable("deadline", reason))
