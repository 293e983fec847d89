"""What is asked in one loop tick leaves together, in a bounded number of flights."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Final, Generic, TypeVar

from proxy.core.token import Digest
from proxy.stores.share import share

Cargo = TypeVar("Cargo")
Answer = TypeVar("Answer")

MANY: Final = 1_000_000_000


class Full(Exception):
    """So many wait already that one more would wait in vain."""


class Flights(Generic[Cargo, Answer]):
    """Gathers cargo by digest and carries it off when the tick ends, or when a flight comes back.

    A flight belongs to nobody who waits for it: a caller that leaves takes nothing from the others.
    While as many flights are out as may be, cargo gathers: the next one takes all the more.
    """

    def __init__(
        self,
        carry: Callable[[Mapping[Digest, Cargo]], Awaitable[Mapping[Digest, Answer | Exception]]],
        *,
        merge: Callable[[Cargo, Cargo], Cargo],
        max_batch: int,
        max_flights: int = MANY,
        max_waiting: int = MANY,
    ) -> None:
        """`carry` takes at most `max_batch` and brings an answer, or an error, for each digest.

        `merge` makes one of two that wait for the same digest. `max_waiting` bounds what waits and
        what is out, together.
        """
        self._carry = carry
        self._merge = merge
        self._max_batch = max_batch
        self._max_flights = max_flights
        self._max_waiting = max_waiting
        self._cargo: dict[Digest, Cargo] = {}
        self._waiting: dict[Digest, asyncio.Future[Answer]] = {}
        self._out: dict[asyncio.Task[None], int] = {}
        self._called = False

    def board(self, digest: Digest, cargo: Cargo) -> asyncio.Future[Answer]:
        """Return the answer to come. Full: there will be none in time."""
        future = self._waiting.get(digest)
        if future is None:
            if len(self._waiting) + sum(self._out.values()) >= self._max_waiting:
                raise Full
            future = self._waiting[digest] = asyncio.get_running_loop().create_future()
            self._cargo[digest] = cargo
            self._call()
        else:
            self._cargo[digest] = self._merge(self._cargo[digest], cargo)
        return share(future)

    def _call(self) -> None:
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._depart)

    def _depart(self) -> None:
        self._called = False
        while self._waiting and len(self._out) < self._max_flights:
            digests = list(islice(self._waiting, self._max_batch))
            cargo = {digest: self._cargo.pop(digest) for digest in digests}
            waiting = {digest: self._waiting.pop(digest) for digest in digests}
            flight = asyncio.create_task(self._fly(cargo, waiting))
            self._out[flight] = len(digests)
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        del self._out[flight]
        if flight.cancelled():  # all is over, also for those who have not left yet
            for future in self._waiting.values():
                future.cancel()
            self._waiting.clear()
            self._cargo.clear()
        else:
            self._depart()

    async def _fly(
        self, cargo: Mapping[Digest, Cargo], waiting: Mapping[Digest, asyncio.Future[Answer]]
    ) -> None:
        answers: Mapping[Digest, Answer | Exception]
        try:
            answers = await self._carry(cargo)
        except Exception as error:  # noqa: BLE001 - it is raised to everybody who waits
            answers = dict.fromkeys(waiting, error)
        except BaseException:
            for future in waiting.values():
                future.cancel()
            raise
        for digest, future in waiting.items():
            _tell(future, answers[digest])


def _tell(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
        future.exception()  # mark it as seen: everybody who waited may have left
    else:
        future.set_result(answer)
