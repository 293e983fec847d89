"""Seal, verify, list and delete audit events, which database triggers write."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NoReturn

from sidegate.core.audit import (
    CHAIN_START,
    AuditEvent,
    AuditFilter,
    Seal,
    seal_events,
    select_intact,
)
from sidegate.core.clock import Clock
from sidegate.core.errors import Conflict, StoreUnavailable, UnreadableRecord
from sidegate.core.protocols import AuditLog
from sidegate.core.timeouts import with_timeout
from sidegate.services.job_outage import watch_job

_BATCH_SIZE: Final = 500
# Events that are sealed at once: decoded and hashed in a step of a few milliseconds, while checks
# wait. A server seals all the time; to verify and to delete are other things.
_SEAL_BATCH_SIZE: Final = 64
# Each lost attempt means that another instance has sealed events.
_MAX_ATTEMPTS: Final = 20
# Seconds for one step of a round.
_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How many events were read, and the last seal up to which the chain is valid.

    `broken` says why it is not valid beyond `head`; None: no break was found.
    """

    events: int
    head: Seal
    broken: str | None = None


class AuditSealer:
    """Seals, verifies and trims the audit trail."""

    def __init__(
        self,
        log: AuditLog,
        *,
        retention: timedelta,
        clock: Clock,
        count: Callable[[str, int], None],
    ) -> None:
        """Call `count` with `sealed` or `deleted` and how many events, or (`failed`, 1)."""
        self._audit = log
        self._retention = retention
        self._clock = clock
        self._count = count
        self._steps = (
            (self.seal, watch_job("audit_seal", clock)),
            (self.delete_expired, watch_job("audit_retention", clock)),
        )

    async def list_events(
        self, wanted: AuditFilter, *, limit: int, before: int | None = None
    ) -> list[AuditEvent]:
        """Return a page of events, the newest first, below the number `before`."""
        return await self._audit.list_events(wanted, limit=limit, before=before)

    async def run(self, interval: float) -> NoReturn:
        """Seal and delete every `interval` seconds until cancelled; retry failures then."""
        while True:
            for step, outage in self._steps:
                try:
                    await with_timeout(step(), _TIMEOUT, store="durable")
                except (StoreUnavailable, UnreadableRecord) as error:
                    self._count("failed", 1)
                    outage.record_failure(error)
                else:
                    outage.record_success()
            await asyncio.sleep(interval)

    async def seal(self) -> int:
        """Seal all unsealed events and return how many; stop if another instance does."""
        total = 0
        while sealed := await self._seal_batch():
            total += sealed
        return total

    async def seal_all(self) -> None:
        """Seal until no event is unsealed. Raise Conflict if other instances win every attempt."""
        lost = 0
        while (sealed := await self._seal_batch()) != 0:
            lost = lost + 1 if sealed is None else 0
            if lost == _MAX_ATTEMPTS:
                raise Conflict("other processes are sealing audit events")

    async def _seal_batch(self) -> int | None:
        """Seal a batch and return how many events; None: another instance was sealing."""
        # The head first: events that another instance seals after this must not be placed here.
        head = await self._audit.read_head()
        events = await self._audit.list_unsealed(limit=_SEAL_BATCH_SIZE)
        seals = [(event.number, seal) for event, seal in seal_events(head, events)]
        if not await self._audit.add_seals(seals):
            return None
        if seals:
            self._count("sealed", len(seals))
        return len(seals)

    async def delete_expired(self) -> int:
        """Delete a batch of events older than the retention; return how many."""
        before = self._clock.now() - self._retention
        deleted = await self._audit.delete_oldest(before, limit=_BATCH_SIZE)
        self._count("deleted", deleted)
        return deleted

    async def verify(self, known: Seal = CHAIN_START) -> AsyncIterator[VerifyProgress]:
        """Yield the progress after each batch, up to the first break or the end.

        `known` is a seal recorded earlier, outside the database. Only with one is it detected that
        the chain was rebuilt or that its end is missing.
        """
        events, head = 0, await self._audit.read_anchor()
        while page := await self._audit.list_sealed(after=head.link, limit=_BATCH_SIZE):
            intact = select_intact(head, page)
            if any(found.link == known.link and found != known for _, found in intact):
                yield VerifyProgress(events, head, f"link {known.link} differs from the known seal")
                return
            events, head = events + len(intact), intact[-1][1] if intact else head
            if len(intact) < len(page):
                anchor = await self._audit.read_anchor()
                if anchor.link <= head.link:
                    yield VerifyProgress(
                        events, head, f"link {head.link + 1} does not match its seal"
                    )
                    return
                head = anchor  # the retention has deleted events meanwhile
            yield VerifyProgress(events, head)
        missing = f"link {known.link} of the known seal is missing"
        yield VerifyProgress(events, head, missing if head.link < known.link else None)
