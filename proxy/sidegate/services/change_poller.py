"""Hear from the truth what has changed, hand it to the hot stores, and mend what they missed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from sidegate.core.clock import Clock
from sidegate.core.errors import MarkLost, StoreUnavailable
from sidegate.core.protocols import DurableStore, SessionCache
from sidegate.core.session import Session
from sidegate.core.within import within
from sidegate.services.publisher import put_copies

# Seconds for one round: a hundred thousand changes are read and told within them.
_PATIENCE: Final = 10.0
# Seconds for the one question that is always quick. It comes first, and finds out who is away.
_SOON: Final = 2.0
# Seconds within which what is due is told, or news come first.
_SETTLING: Final = 5.0
# So many of the last changes may have been left untold by whoever died over them.
_UNTOLD: Final = 1_000
# So many sessions are told before it counts as done.
_AT_ONCE: Final = 500
# Seconds between two rounds, however often it rings: at most forty of them a second.
_SPACING: Final = 0.025
# Seconds, longer than any look-up takes: what was being read when a session changed has been put by
# then, and the tombstone comes to lie on top of it.
LATE: Final = 1.0


class _Due(NamedTuple):
    """Changes that the stores beyond are told, and from when on."""

    at: float
    changed: Sequence[Session]


class ChangePoller:
    """Asks the truth, when it rings and again and again, what has changed: it loses nothing.

    Our own memory is told at once. The stores beyond were told by whoever made the change; we tell
    them once more, late on purpose. If one cannot take it, the next generation begins, and what
    that store has kept is believed by nobody: a tombstone that never reached a Redis must not be
    missed when that Redis is back, not even by an instance that starts later. Nor is one missed
    that somebody committed who died before telling it: the last changes are told once more by
    whoever starts, before it believes a store beyond.
    """

    def __init__(
        self,
        durable: DurableStore,
        *,
        hot: Sequence[SessionCache],
        told: Callable[[int], None],
        believe: Callable[[bool], None],
        gap: Callable[[], None],
        clock: Clock,
        every: float,
    ) -> None:
        """Ask each `every` seconds, and tell `told` the generation each time: under it the stores
        beyond keep what they are told. `believe` is told whether that is to be believed.

        `hot` runs from near to far. `gap` is called when the truth has lost track: something may
        have been missed.
        """
        self._durable = durable
        self._near, self._far = hot[:1], hot[1:]
        self._told = told
        self._believe = believe
        self._gap = gap
        self._clock = clock
        self._every = every
        self._mark = 0
        self._started = False
        self._doubts = 0
        self._latest = 0  # generation
        self._due: list[_Due] = []
        self._bell = asyncio.Event()

    def wake(self) -> None:
        """Look soon: something has changed."""
        self._bell.set()

    def distrust_redis(self) -> None:
        """Let nobody believe the stores beyond until the truth has told the generation anew.

        It may have changed, without our hearing of it, while they could not be reached.
        """
        self._doubts += 1
        self._believe(False)
        self.wake()

    def redeliver_later(self, changed: Sequence[Session]) -> None:
        """Note, and mend soon, that a store beyond could not be told of a change made here."""
        self._due.append(_Due(self._clock.monotonic(), changed))
        self.wake()

    async def run(self, up: Callable[[bool], None]) -> NoReturn:
        """Go round until cancelled. `up` is told after each round whether the truth answered."""
        try:
            while True:
                up(await self._done(self.poll()))
                await asyncio.sleep(_SPACING)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._every):
                        await self._bell.wait()
                self._bell.clear()
        finally:
            await self._done(self.redeliver())

    async def poll(self) -> int:
        """Settle what is due, pass on what has changed, and return how many sessions that were."""
        await self._generation()  # first: it is quick, or the truth is away
        if self._mark == 0:
            await self._begin()
        try:
            # Before any row of a session is asked for, which may be locked.
            await within(_SETTLING, "durable", self.redeliver())
        except StoreUnavailable:
            await self._heard()  # a truth that takes no writes has news all the same
            raise
        return await self._heard()

    async def redeliver(self) -> None:
        """Tell the stores beyond what is due. What they do not take ends their generation.

        What has been told is told, also if there is no time for the rest.
        """
        now, doubts = self._clock.monotonic(), self._doubts
        generation = await self._generation()
        for due in [each for each in self._due if each.at <= now]:
            if not await self._taken(due.changed):
                # The generation was read after these changes were committed, and after all others
                # that are due: whoever ended it, ended it after them.
                generation = await self._durable.next_generation(generation)
                self._due = [each for each in self._due if each.at > now]
                break
            self._due = [each for each in self._due if each is not due]
        self._started = self._mark != 0
        self._confirm(generation, doubts)

    async def _taken(self, changed: Sequence[Session]) -> bool:
        """Say whether the stores beyond have taken it. At the first try there may be no connection
        yet.
        """
        return await put_copies(changed, self._far) or await put_copies(changed, self._far)

    async def _generation(self) -> int:
        """Return which generation is believed, and from now on believe it here, too."""
        doubts = self._doubts
        generation = await within(_SOON, "durable", self._durable.generation())
        if generation < self._latest:  # a replica took over that had not heard of the last one
            generation = await self._durable.next_generation(generation)
        self._confirm(generation, doubts)
        return generation

    def _confirm(self, generation: int, doubts: int) -> None:
        """Believe what was asked for after so many doubts, unless there has been one since.

        Until all was told that may have been left untold, what is kept is not believed.
        """
        self._latest = generation
        self._told(generation)
        if self._started and doubts == self._doubts:
            self._believe(True)

    async def _heard(self) -> int:
        try:
            mark, changed = await self._durable.changed_since(self._mark)
        except MarkLost:
            mark, changed = await self._durable.changed_since(0)
            self._gap()  # only now: what was kept until here and changed since then is heard
            # What was lost must not live on in a store beyond, where nobody could end it.
            self._latest += 1
            self.distrust_redis()
        await put_copies(changed, self._near)
        self._note(changed, self._clock.monotonic() + LATE)
        self._mark = mark  # only now: whoever was interrupted hears it again
        return len(changed)

    async def _begin(self) -> None:
        """Begin with the present, and with what may have been left untold before."""
        mark, _ = await self._durable.changed_since(0)
        self._note(await self._durable.last_changed(_UNTOLD), self._clock.monotonic())
        self._mark = mark

    def _note(self, changed: Sequence[Session], at: float) -> None:
        for start in range(0, len(changed), _AT_ONCE):
            self._due.append(_Due(at, changed[start : start + _AT_ONCE]))

    async def _tell_meanwhile(self) -> None:
        """Offer what is due while the truth is away: whoever believes the others should know."""
        now = self._clock.monotonic()
        for due in [each for each in self._due if each.at <= now]:
            await put_copies(due.changed, self._far)

    async def _done(self, work: Awaitable[object]) -> bool:
        """Say whether it was done. If not, the stores beyond are told what is due all the same."""
        try:
            await within(_PATIENCE, "durable", work)
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                await within(_PATIENCE, "beyond", self._tell_meanwhile())
            return False
        return True
