"""What is asked in one loop tick leaves together, in a bounded number of flights."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain, islice
from typing import Final, Generic, TypeVar

from sidegate.core.token import Digest

Payload = TypeVar("Payload")
Answer = TypeVar("Answer")

# Those who wait for one digest, each with a future of its own: one that leaves takes only that.
_Waiters = list[asyncio.Future[Answer]]

UNLIMITED: Final = 1_000_000_000


class BatcherFull(Exception):
    """So many wait already that one more would wait in vain."""


class Batcher(Generic[Payload, Answer]):
    """Gathers cargo by digest and carries it off when the tick ends, or when a flight comes back.

    A flight belongs to nobody who waits for it: a caller that leaves takes nothing from the others.
    While as many flights are out as may be, cargo gathers: the next one takes all the more.
    """

    def __init__(
        self,
        carry: Callable[[Mapping[Digest, Payload]], Awaitable[Mapping[Digest, Answer | Exception]]],
        *,
        merge: Callable[[Payload, Payload], Payload],
        max_batch: int,
        max_flights: int = UNLIMITED,
        max_waiting: int = UNLIMITED,
        late: float | None = None,
    ) -> None:
        """`carry` takes at most `max_batch` and brings an answer, or an error, for each digest.

        `merge` makes one of two that wait for the same digest. `max_waiting` bounds what waits and
        what is out, together. A flight that is out for `late` seconds is no longer counted as one
        of `max_flights`: nobody waits for long because of those before him. None: it always is.
        """
        self._carry = carry
        self._merge = merge
        self._max_batch = max_batch
        self._max_flights = max_flights
        self._max_waiting = max_waiting
        self._late = late
        self._cargo: dict[Digest, Payload] = {}
        self._waiting: dict[Digest, _Waiters[Answer]] = {}
        self._out: dict[asyncio.Task[None], Mapping[Digest, _Waiters[Answer]]] = {}
        self._aboard = 0  # digests that are out
        self._counted: set[asyncio.Task[None]] = set()
        self.departed = 0  # flights, so far
        self._called = False

    def submit(self, digest: Digest, cargo: Payload) -> asyncio.Future[Answer]:
        """Return the answer to come. Full: there will be none in time."""
        passengers = self._waiting.get(digest)
        if passengers is None:
            if len(self._waiting) + self._aboard >= self._max_waiting:
                raise BatcherFull
            passengers = self._waiting[digest] = []
            self._cargo[digest] = cargo
            self._call()
        else:
            self._cargo[digest] = self._merge(self._cargo[digest], cargo)
        own: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        passengers.append(own)
        return own

    def _call(self) -> None:
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._depart)

    def _depart(self) -> None:
        self._called = False
        while self._waiting and len(self._counted) < self._max_flights:
            digests = list(islice(self._waiting, self._max_batch))
            cargo = {digest: self._cargo.pop(digest) for digest in digests}
            waiting = {digest: self._waiting.pop(digest) for digest in digests}
            flight = asyncio.create_task(self._fly(cargo, waiting))
            self._out[flight] = waiting
            self._aboard += len(waiting)
            self._counted.add(flight)
            if self._late is not None:
                asyncio.get_running_loop().call_later(self._late, self._count_no_more, flight)
            self.departed += 1
            flight.add_done_callback(self._landed)

    def _count_no_more(self, flight: asyncio.Task[None]) -> None:
        if flight in self._counted:
            self._counted.discard(flight)
            self._depart()

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._counted.discard(flight)
        aboard = self._out.pop(flight)
        self._aboard -= len(aboard)
        if flight.cancelled() or flight.exception() is not None:
            # All is over, also for those aboard (a flight that is cancelled before it began tells
            # them nothing itself) and for those who have not left yet.
            _cancel(aboard)
            _cancel(self._waiting)
            self._waiting.clear()
            self._cargo.clear()
        else:
            self._depart()

    async def _fly(
        self, cargo: Mapping[Digest, Payload], waiting: Mapping[Digest, _Waiters[Answer]]
    ) -> None:
        answers: Mapping[Digest, Answer | Exception]
        try:
            found = await self._carry(cargo)
            answers = {digest: found[digest] for digest in waiting}
        except Exception as error:  # noqa: BLE001 - it is raised to everybody who waits
            answers = dict.fromkeys(waiting, error)
        for digest, passengers in waiting.items():
            for own in passengers:
                if not own.done():  # else its caller has left
                    _tell(own, answers[digest])


def _cancel(waiting: Mapping[Digest, _Waiters[Answer]]) -> None:
    for own in chain.from_iterable(waiting.values()):
        own.cancel()


def _tell(own: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if isinstance(answer, Exception):
        own.set_exception(answer)
    else:
        own.set_result(answer)
