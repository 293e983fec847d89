"""Revocations while the truth is away: they hold at once, everywhere, and are written down later.

They are kept on a shelf in Redis, and in the memory of every instance, which applies them to each
session it finds, on whatever road. What the shelf loses the instances put back, and whoever reaches
the truth first writes down; that others do so too changes nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Final, NoReturn
from uuid import uuid4

from sidegate.core.actor import Actor
from sidegate.core.clock import Clock
from sidegate.core.condition import Condition
from sidegate.core.errors import StoreUnavailable
from sidegate.core.pending import PendingRevocation
from sidegate.core.protocols import PendingRevocationStore
from sidegate.core.session import Session, SessionRecord
from sidegate.core.within import within

# Seconds for one to be written down.
_PATIENCE: Final = 5.0

_log: Final = logging.getLogger("sidegate.pending")

Persist = Callable[[PendingRevocation], Awaitable[None]]
"""Makes the truth know it. StoreUnavailable: not now."""

_Whom = tuple[str | None, str | None]
"""A session's id, or the id of a user, or neither."""


class PendingRevocations:
    """The revocations that hold and are not written down yet, as far as this instance knows."""

    def __init__(
        self,
        shelf: PendingRevocationStore | None,
        *,
        clock: Clock,
        counted: Callable[[str], None],
        linger: float,
        most: int = 100_000,
    ) -> None:
        """`counted` is told of each that was accepted, written or dropped. Beyond `most` none is
        accepted; without a shelf none ever is.

        One that is written down is applied for `linger` seconds more: longer than a copy in our own
        memory is believed, or a look-up takes that has begun before.
        """
        self._shelf = shelf
        self._clock = clock
        self._counted = counted
        self._most = most
        self._linger = linger
        self._known: dict[str, PendingRevocation] = {}
        # Those that hold, by whom they are about: each hit asks for its own.
        self._holding: dict[_Whom, dict[str, PendingRevocation]] = {}
        self._written_down: dict[str, tuple[float, PendingRevocation]] = {}
        self._tries: dict[str, int] = {}  # of those that could not be written down
        self._bell = asyncio.Event()
        self._work = asyncio.Event()

    def __len__(self) -> int:
        return len(self._known)

    def applied(self, session: Session) -> Session:
        """Return a session as it is, whatever its copy says. Neither waits nor fails."""
        if not self._holding:
            return session
        for revocation in self._meant_for(session):
            session = revocation.applied(session)
        return session

    def written_in(self, record: SessionRecord) -> SessionRecord:
        """Return a record as it is, whatever the truth says by now. Itself: nothing is pending."""
        for revocation in self._meant_for(record.session):
            record = revocation.written_in(record)
        return record

    def _meant_for(self, session: Session) -> Iterator[PendingRevocation]:
        """Yield the revocations that may mean this session."""
        for whom in ((session.id, None), (None, session.user_id), (None, None)):
            yield from self._holding.get(whom, {}).values()

    def accepts(self, condition: Condition) -> bool:
        """Say whether a revocation of these sessions can be pending at all."""
        return self._shelf is not None and condition.decidable

    async def add(self, condition: Condition, *, by: Actor, reason: str) -> None:
        """Let a revocation hold from now on. StoreUnavailable: it does not."""
        if self._shelf is None or len(self._known) >= self._most:
            raise StoreUnavailable("pending", "no room for a revocation that is not written down")
        revocation = PendingRevocation.of(
            uuid4().hex, condition, at=self._clock.now(), by=by, reason=reason
        )
        await self._shelf.put([revocation])
        self._learn([revocation])
        self._counted("accepted")

    def wake(self) -> None:
        """Look soon: another instance may have added one."""
        self._bell.set()

    async def watch(self, every: float) -> NoReturn:
        """Learn what others have added, when it rings and every so many seconds."""
        while True:
            with suppress(StoreUnavailable):
                await self.refresh()
            self.forget()
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._bell.wait()
            self._bell.clear()

    async def refresh(self) -> None:
        """Learn what is on the shelf, and put back what it has lost."""
        if self._shelf is None:
            return
        found, lost = await self._shelf.compare(set(self._known))
        self._learn(found)
        await self._shelf.put([self._known[id_] for id_ in lost if id_ in self._known])

    async def run_persisting(self, every: float, write_down: Persist) -> NoReturn:
        """Write down what is pending, until cancelled; when that fails, again a little later."""
        while True:
            await self._work.wait()
            with suppress(StoreUnavailable):
                await self.persist_all(write_down)
            if not self._known:
                self._work.clear()
            await asyncio.sleep(every)

    async def persist_all(self, write_down: Persist) -> None:
        """Write down all that are known, the oldest first. StoreUnavailable: the rest, not now.

        One that takes too long is passed over, and comes last the next time.
        """
        outage: StoreUnavailable | None = None
        for revocation in sorted(self._known.values(), key=self._turn):
            try:
                await within(_PATIENCE, "durable", self._written(revocation, write_down))
            except StoreUnavailable as failed:
                self._tries[revocation.id] = self._tries.get(revocation.id, 0) + 1
                if outage is not None:  # twice in a row: it is not this one's fault
                    raise
                outage = failed
                continue
            outage = None
            await self._done(revocation)
        if outage is not None:
            raise outage

    def _turn(self, revocation: PendingRevocation) -> tuple[int, datetime]:
        return self._tries.get(revocation.id, 0), revocation.at

    async def _done(self, revocation: PendingRevocation) -> None:
        self._known.pop(revocation.id, None)
        self._tries.pop(revocation.id, None)
        self._written_down[revocation.id] = (self._clock.monotonic() + self._linger, revocation)
        if self._shelf is not None:
            with suppress(StoreUnavailable):  # it is found there, and written once more
                await self._shelf.remove(revocation)

    def forget(self) -> None:
        """Apply no longer what was written down long enough ago."""
        now = self._clock.monotonic()
        over = [each for until, each in self._written_down.values() if until <= now]
        for revocation in over:
            del self._written_down[revocation.id]
            alike = self._holding[_whom(revocation)]
            del alike[revocation.id]
            if not alike:
                del self._holding[_whom(revocation)]

    async def _written(self, revocation: PendingRevocation, write_down: Persist) -> None:
        try:
            await write_down(revocation)
        except ValueError as error:  # nobody of ours has added that, and it must not stay for ever
            _log.error("a pending revocation cannot be written down: %s", error)
            self._counted("dropped")
        else:
            self._counted("written")

    def _learn(self, revocations: Iterable[PendingRevocation]) -> None:
        for revocation in revocations:
            if revocation.id in self._written_down:
                continue  # another instance, which did not know, has put it back: it sees to it
            self._known[revocation.id] = revocation
            self._holding.setdefault(_whom(revocation), {})[revocation.id] = revocation
            self._work.set()


def _whom(revocation: PendingRevocation) -> _Whom:
    condition = revocation.condition
    return (condition.session_id, None if condition.session_id else condition.user_id)
