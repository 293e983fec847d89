"""Pending revocations: in force during a database outage, persisted after it.

They are kept in Redis, and in the memory of every instance, which applies them to each session it
finds in any store. Instances restore what Redis loses. The first instance that reaches the database
persists them; that several do so changes nothing.
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
from sidegate.core.pending_revocation import PendingRevocation
from sidegate.core.protocols import PendingRevocationStore
from sidegate.core.session import Session, SessionRecord
from sidegate.core.timeouts import with_timeout
from sidegate.services.job_outage import watch_job

# Seconds to persist one.
_PERSIST_TIMEOUT: Final = 5.0

_log: Final = logging.getLogger("sidegate.pending")

Persist = Callable[[PendingRevocation], Awaitable[None]]
"""Writes a revocation to the database. Raises StoreUnavailable if it cannot be written now."""

_Subject = tuple[str | None, str | None]
"""A session's id, or the id of a user, or neither."""


class PendingRevocations:
    """The revocations in force and not yet persisted, as known to this instance."""

    def __init__(
        self,
        store: PendingRevocationStore | None,
        *,
        clock: Clock,
        count: Callable[[str], None],
        retention: float,
        max_pending: int = 100_000,
    ) -> None:
        """Call `count` with accepted, written or dropped.

        Without a `store` no revocation is accepted, nor beyond `max_pending`.
        A persisted revocation is applied for `retention` seconds more: longer than a copy in this
        process's memory is trusted, or a lookup takes that began before.
        """
        self._store = store
        self._clock = clock
        self._count = count
        self._max_pending = max_pending
        self._retention = retention
        self._known: dict[str, PendingRevocation] = {}
        # Those in force, by subject: each hit looks up its own.
        self._in_force: dict[_Subject, dict[str, PendingRevocation]] = {}
        self._persisted: dict[str, tuple[float, PendingRevocation]] = {}
        self._failures: dict[str, int] = {}  # attempts to persist, by id
        self._wakeup = asyncio.Event()
        self._has_work = asyncio.Event()
        self._outage = watch_job("pending_revocations", clock)

    def __len__(self) -> int:
        return len(self._known)

    def apply(self, session: Session) -> Session:
        """Return the session, or its tombstone if a revocation matches.

        Never waits and never fails.
        """
        if not self._in_force:
            return session
        for revocation in self._candidates(session):
            session = revocation.apply(session)
        return session

    def apply_to_record(self, record: SessionRecord) -> SessionRecord:
        """Return the record as it will be persisted; the same object if none matches."""
        for revocation in self._candidates(record.session):
            record = revocation.apply_to_record(record)
        return record

    def _candidates(self, session: Session) -> Iterator[PendingRevocation]:
        """Yield the revocations that may match this session."""
        for subject in ((session.id, None), (None, session.user_id), (None, None)):
            yield from self._in_force.get(subject, {}).values()

    def accepts(self, condition: Condition) -> bool:
        """Return whether a revocation of these sessions can be pending at all."""
        return self._store is not None and condition.is_decidable

    async def add(self, condition: Condition, *, by: Actor, reason: str) -> None:
        """Put a revocation in force. Raise StoreUnavailable if it is not."""
        if self._store is None or len(self._known) >= self._max_pending:
            raise StoreUnavailable("pending", "no store, or too many pending revocations")
        revocation = PendingRevocation.create(
            uuid4().hex, condition, at=self._clock.now(), by=by, reason=reason
        )
        await self._store.put([revocation])
        self._add_known([revocation])
        self._count("accepted")

    def wake(self) -> None:
        """Refresh now: another instance may have added one."""
        self._wakeup.set()

    async def watch(self, interval: float) -> NoReturn:
        """Refresh on each notification and every `interval` seconds, until cancelled."""
        while True:
            with suppress(StoreUnavailable):
                await self.refresh()
            self.drop_persisted()
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._wakeup.wait()
            self._wakeup.clear()

    async def refresh(self) -> None:
        """Read what other instances have added, and restore what the store has lost."""
        if self._store is None:
            return
        found, lost = await self._store.compare(set(self._known))
        self._add_known(found)
        await self._store.put([self._known[id_] for id_ in lost if id_ in self._known])

    async def run_persisting(self, interval: float, persist: Persist) -> NoReturn:
        """Persist what is pending until cancelled; retry every `interval` seconds."""
        while True:
            await self._has_work.wait()
            try:
                await self.persist_all(persist)
            except StoreUnavailable as error:
                self._outage.record_failure(error)
            else:
                self._outage.record_success()
            if not self._known:
                self._has_work.clear()
            await asyncio.sleep(interval)

    async def persist_all(self, persist: Persist) -> None:
        """Persist all known, oldest first. Raise StoreUnavailable if any is left.

        One that fails is skipped, and comes last the next time. Two failures in a row end the run.
        """
        outage: StoreUnavailable | None = None
        for revocation in sorted(self._known.values(), key=self._priority):
            try:
                await with_timeout(
                    self._persist(revocation, persist), _PERSIST_TIMEOUT, store="durable"
                )
            except StoreUnavailable as error:
                self._failures[revocation.id] = self._failures.get(revocation.id, 0) + 1
                if outage is not None:  # two in a row: it is not due to this one
                    raise
                outage = error
                continue
            outage = None
            await self._remove(revocation)
        if outage is not None:
            raise outage

    def _priority(self, revocation: PendingRevocation) -> tuple[int, datetime]:
        return self._failures.get(revocation.id, 0), revocation.at

    async def _remove(self, revocation: PendingRevocation) -> None:
        self._known.pop(revocation.id, None)
        self._failures.pop(revocation.id, None)
        self._persisted[revocation.id] = (self._clock.monotonic() + self._retention, revocation)
        if self._store is not None:
            with suppress(StoreUnavailable):  # it stays there, and is persisted once more
                await self._store.remove(revocation)

    def drop_persisted(self) -> None:
        """Stop applying revocations that were persisted longer than the retention ago."""
        now = self._clock.monotonic()
        expired = [each for until, each in self._persisted.values() if until <= now]
        for revocation in expired:
            del self._persisted[revocation.id]
            same_subject = self._in_force[_subject_of(revocation)]
            del same_subject[revocation.id]
            if not same_subject:
                del self._in_force[_subject_of(revocation)]

    async def _persist(self, revocation: PendingRevocation, persist: Persist) -> None:
        try:
            await persist(revocation)
        except ValueError as error:  # not added by Sidegate; it must not be retried for ever
            _log.error("pending revocation dropped", extra={"reason": str(error)})
            self._count("dropped")
        else:
            self._count("written")

    def _add_known(self, revocations: Iterable[PendingRevocation]) -> None:
        for revocation in revocations:
            if revocation.id in self._persisted:
                continue  # restored by an instance that did not know; that one persists it again
            self._known[revocation.id] = revocation
            self._in_force.setdefault(_subject_of(revocation), {})[revocation.id] = revocation
            self._has_work.set()


def _subject_of(revocation: PendingRevocation) -> _Subject:
    condition = revocation.condition
    return (condition.session_id, None if condition.session_id else condition.user_id)
