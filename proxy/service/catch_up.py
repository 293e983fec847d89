"""Hear from the truth what has changed, hand it to the hot stores, and mend what they missed."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from proxy.core.clock import Clock
from proxy.core.errors import MarkLost, StoreUnavailable
from proxy.core.protocols import DurableStore, HotStore
from proxy.core.session import Session
from proxy.core.within import within
from proxy.service.outward import offer

# Seconds for one round: a hundred thousand changes of somebody's are read and told within them.
_PATIENCE: Final = 10.0
# So many sessions are told before it counts as done.
_AT_ONCE: Final = 500
# Seconds between two rounds, however often it rings: at most forty of them a second.
_SPACING: Final = 0.025
# Longer than any look-up takes. What was being read when the session changed has been put by then,
# and the tombstone comes to lie on top of it.
_LATE: Final = 1.0


class CatchUp:
    """Asks the truth, when it rings and again and again, what has changed: it loses nothing.

    Our own memory is told at once. The stores beyond were told by whoever made the change; we tell
    them once more, late on purpose. If one cannot take it, the next generation begins, and what
    that store has kept is believed by nobody: a tombstone that never reached a Redis must not be
    missed when that Redis is back, not even by an instance that starts later.
    """

    def __init__(
        self,
        durable: DurableStore,
        *,
        hot: Sequence[HotStore],
        believe: Callable[[int | None], None],
        gap: Callable[[], None],
        clock: Clock,
        every: float,
    ) -> None:
        """Ask each `every` seconds, and tell `believe` the generation each time.

        None: none, until it is told again.
        `hot` runs from near to far. `gap` is called when the truth has lost track: something may
        have been missed.
        """
        self._durable = durable
        self._near, self._far = hot[:1], hot[1:]
        self._believe = believe
        self._gap = gap
        self._clock = clock
        self._every = every
        self._mark = 0
        self._doubts = 0
        self._due = deque[tuple[float, Sequence[Session]]]()  # from when on the far ones are told
        self._bell = asyncio.Event()

    def wake(self) -> None:
        """Look soon: something has changed."""
        self._bell.set()

    def doubt(self) -> None:
        """Let nobody believe the stores beyond until the truth has told the generation anew.

        It may have changed, without our hearing of it, while they could not be reached.
        """
        self._doubts += 1
        self._believe(None)
        self.wake()

    def owe(self, changed: Sequence[Session]) -> None:
        """Note, and mend soon, that a store beyond could not be told of a change made here."""
        self._due.appendleft((self._clock.monotonic(), changed))
        self.wake()

    async def run(self, up: Callable[[bool], None]) -> NoReturn:
        """Go round until cancelled. `up` is told after each round whether the truth answered."""
        try:
            while True:
                up(await self._round())
                await asyncio.sleep(_SPACING)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._every):
                        await self._bell.wait()
                self._bell.clear()
        finally:
            with suppress(StoreUnavailable):
                await within(_PATIENCE, "durable", self.settle())

    async def once(self) -> int:
        """Pass on what has changed since the last time, and return how many sessions that were."""
        try:
            changed = await self._heard()
        except StoreUnavailable:
            await self._tell_meanwhile()
            raise
        await self.settle()  # last: a truth that takes no writes has news all the same
        return changed

    async def settle(self) -> None:
        """Tell the stores beyond what is due. What they do not take ends their generation.

        What has been told is told, also if there is no time for the rest.
        """
        now, doubts = self._clock.monotonic(), self._doubts
        try:
            generation = await self._durable.generation()
        except StoreUnavailable:
            await self._tell_meanwhile()
            raise
        self._confirm(generation, doubts)
        while self._due and self._due[0][0] <= now:
            due = self._due.popleft()
            try:
                taken = await offer(due[1], self._far)
                if not taken:
                    # It was read after these changes were committed: whoever ended it, did so
                    # after them. So it did after all others that are due.
                    self._confirm(await self._durable.next_generation(generation), doubts)
            except BaseException:
                self._due.appendleft(due)
                raise
            if not taken:
                self._due = deque(each for each in self._due if each[0] > now)
                return

    def _confirm(self, generation: int, doubts: int) -> None:
        """Believe what was asked for after so many doubts, unless there has been one since."""
        if doubts == self._doubts:
            self._believe(generation)

    async def _heard(self) -> int:
        try:
            mark, changed = await self._durable.changed_since(self._mark)
        except MarkLost:
            mark, changed = await self._durable.changed_since(0)
            self._gap()  # only now: what was kept until here and changed since then is heard
        await offer(changed, self._near)
        for start in range(0, len(changed), _AT_ONCE):
            later = self._clock.monotonic() + _LATE
            self._due.append((later, changed[start : start + _AT_ONCE]))
        self._mark = mark  # only now: whoever was interrupted hears it again
        return len(changed)

    async def _tell_meanwhile(self) -> None:
        """Offer what is due while the truth is away: whoever believes the others should know."""
        now = self._clock.monotonic()
        for _, changed in (each for each in tuple(self._due) if each[0] <= now):
            await offer(changed, self._far)

    async def _round(self) -> bool:
        try:
            await within(_PATIENCE, "durable", self.once())
        except StoreUnavailable:
            return False
        return True
