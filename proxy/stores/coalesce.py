"""One flight per digest: whoever asks for what is being looked up shares the answer."""

import asyncio

from proxy.core.protocols import SessionFinder
from proxy.core.session import Session
from proxy.core.token import Digest
from proxy.stores.share import share


class Coalesce:
    """A finder that never asks twice at once for the same digest.

    The flight belongs to nobody who waits for it: a caller that leaves cancels nothing. Answers
    and errors end with the flight; nothing is remembered.
    """

    def __init__(self, finder: SessionFinder) -> None:
        self._finder = finder
        self._flights: dict[Digest, asyncio.Task[Session | None]] = {}

    async def find(self, digest: Digest) -> Session | None:
        flight = self._flights.get(digest)
        if flight is None:
            flight = asyncio.create_task(self._finder.find(digest))
            self._flights[digest] = flight
            flight.add_done_callback(lambda done: self._landed(digest, done))
        return await share(flight)

    def _landed(self, digest: Digest, flight: asyncio.Task[Session | None]) -> None:
        del self._flights[digest]
        if not flight.cancelled():
            flight.exception()  # mark it as seen: everybody who waited may have left
