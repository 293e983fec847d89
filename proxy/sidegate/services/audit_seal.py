"""The audit trail: seal what was done, verify the chain, show it, and forget what is too old."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NoReturn

from sidegate.core.audit import BEFORE_ALL, AuditEvent, AuditFilter, Seal, holding, sealed
from sidegate.core.clock import Clock
from sidegate.core.errors import StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import AuditLog

_BATCH: Final = 500
# Seconds without an answer after which a round counts as failed, and the next one begins.
_PATIENCE: Final = 10.0

_log: Final = logging.getLogger("sidegate.audit")


@dataclass(frozen=True, slots=True)
class Verified:
    """So many events were read, and the chain holds up to and with `head`, but no further if
    `broken` says why.
    """

    events: int
    head: Seal
    broken: str | None = None


class AuditSealer:
    """What there is to do with the trail. Events are written by the store, with each change."""

    def __init__(
        self,
        log: AuditLog,
        *,
        retention: timedelta,
        clock: Clock,
        counted: Callable[[str, int], None],
    ) -> None:
        """`counted` is told `sealed` or `forgotten` with how many events, and `failed` with 1."""
        self._audit = log
        self._retention = retention
        self._clock = clock
        self._counted = counted

    async def events(
        self, wanted: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        """Return a page of events, the newest first, below the number `before`."""
        return await self._audit.events(wanted, limit=limit, before=before)

    async def run(self, every: float) -> NoReturn:
        """Seal and forget every so many seconds, until cancelled. A failure is tried again."""
        while True:
            for step in (self.seal, self.forget):
                try:
                    async with asyncio.timeout(_PATIENCE):
                        await step()
                except (StoreUnavailable, UnreadableRecord, TimeoutError) as trouble:
                    self._counted("failed", 1)
                    _log.warning("the audit trail: %s failed: %r", step.__name__, trouble)
            await asyncio.sleep(every)

    async def seal(self) -> int:
        """Seal what is not yet, unless another instance is at it; return how many events."""
        total = 0
        while True:
            # The head first: events that another instance seals after this are not ours to place.
            head = await self._audit.head()
            events = await self._audit.unsealed(limit=_BATCH)
            seals = [(event.number, seal) for event, seal in sealed(head, events)]
            if not seals or not await self._audit.seal(seals):
                return total
            self._counted("sealed", len(seals))
            total += len(seals)

    async def forget(self) -> int:
        """Delete a batch of what is older than the retention; return how many events."""
        before = self._clock.now() - self._retention
        forgotten = await self._audit.forget(before, limit=_BATCH)
        self._counted("forgotten", forgotten)
        return forgotten

    async def verify(self, known: Seal = BEFORE_ALL) -> AsyncIterator[Verified]:
        """Yield how far the chain holds, after each batch until its end or the first break.

        `known` is a seal somebody has written down earlier: only with one can it be noticed that
        the chain was made anew, or that its end is missing.
        """
        events, head = 0, await self._audit.anchor()
        while page := await self._audit.chain(after=head.link, limit=_BATCH):
            held = holding(head, page)
            if any(found.link == known.link and found != known for _, found in held):
                yield Verified(events, head, f"link {known.link} is not the one that was known")
                return
            events, head = events + len(held), held[-1][1] if held else head
            if len(held) < len(page):
                anchor = await self._audit.anchor()
                if anchor.link <= head.link:
                    yield Verified(events, head, f"link {head.link + 1} does not hold")
                    return
                head = anchor  # the retention has overtaken us
            yield Verified(events, head)
        missing = f"link {known.link}, which was known, is missing"
        yield Verified(events, head, missing if head.link < known.link else None)
